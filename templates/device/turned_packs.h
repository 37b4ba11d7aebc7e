// Eight packs as a square of elements, turned over its diagonal.
#pragma once
#include "device/pack.h"

namespace liger {

// to[i] has element i of each of the packs.
template <class T>
LIGER_DEVICE void turned(const RawPack<T> (&from)[pack_size], RawPack<T> (&to)[pack_size]) {
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
    if constexpr (two_bytes<T>) {
      LIGER_UNROLL for (int pair = 0; pair < pack_size / 2; ++pair) {
        const unsigned int first = from[2 * pair].words[i / 2];
        const unsigned int second = from[2 * pair + 1].words[i / 2];
        to[i].words[pair] =
            i % 2 == 0 ? (first & 0xffffu) | second << 16 : first >> 16 | (second & 0xffff0000u);
      }
    } else {
      constexpr int words = sizeof(T) / sizeof(unsigned int);
      LIGER_UNROLL for (int j = 0; j < pack_size; ++j) {
        LIGER_UNROLL for (int word = 0; word < words; ++word) to[i].words[j * words + word] =
            from[j].words[i * words + word];
      }
    }
  }
}

}  // namespace liger
