// Packs of a row for whom it does not matter which columns they have: where eight elements are more
// than a word of 16 bytes, the words of a pack stand 32 words apart, so that 32 neighbouring packs
// together read and write neighbouring words. The last packs of a row have neighbouring columns.
#pragma once
#include "device/softmax.h"

namespace liger {

template <int N, class T>
struct Stripes {
  static constexpr int words = pack_size * sizeof(T) / 16;
  static constexpr int word_elements = 16 / sizeof(T);

  static LIGER_DEVICE bool has(int pack) {
    if constexpr (on_host || words == 1) return false;
    return (pack / 32 + 1) * 32 * pack_size <= N;
  }
  static LIGER_DEVICE int column(int pack, int word) {
    return pack / 32 * (32 * pack_size) + (word * 32 + pack % 32) * word_elements;
  }
};

// Eight elements; those past the end of the row are `missing`.
template <int N, int AlignBytes, class T>
LIGER_DEVICE Pack<typename ArithmeticOf<T>::Type> load_striped(
    const T* row, int pack, typename ArithmeticOf<T>::Type missing = 0) {
  if constexpr (!on_host) {
    if (Stripes<N, T>::has(pack)) {
      RawPack<T> raw;
      LIGER_UNROLL for (int word = 0; word < Stripes<N, T>::words; ++word) {
        const T* const from = row + Stripes<N, T>::column(pack, word);
        const auto read = load_raw<AlignBytes>(reinterpret_cast<const bf16*>(from));
        copy_bytes(raw.words + word * 4, read.words, 16);
      }
      return widened(raw);
    }
  }
  return load_pack<N, AlignBytes>(row, pack, missing);
}

template <int N, int AlignBytes, class T, class A>
LIGER_DEVICE void store_striped(T* row, int pack, const Pack<A>& values) {
  if constexpr (!on_host) {
    if (Stripes<N, T>::has(pack)) {
      const RawPack<T> raw = narrowed<T>(values);
      LIGER_UNROLL for (int word = 0; word < Stripes<N, T>::words; ++word) {
        RawPack<bf16> one;
        copy_bytes(one.words, raw.words + word * 4, 16);
        store_raw<AlignBytes>(reinterpret_cast<bf16*>(row + Stripes<N, T>::column(pack, word)),
                              one);
      }
      return;
    }
  }
  store_pack<N, AlignBytes>(row, pack, values);
}

}  // namespace liger
