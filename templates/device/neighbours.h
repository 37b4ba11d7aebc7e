// A few neighbouring elements of a thread that wants fewer than a pack.
#pragma once
#include "device/dtype.h"

namespace liger {

// `Count` neighbours, in one load or store where the address allows that.
template <int Bytes>
struct BitsOf;
template <>
struct BitsOf<4> {
  using Type = unsigned int;
};
template <>
struct BitsOf<8> {
  using Type = unsigned long long;
};
template <int AlignBytes, int Count, class T>
constexpr bool fits_a_word = !on_host && AlignBytes >= Count * static_cast<int>(sizeof(T)) &&
                             (Count * sizeof(T) == 4 || Count * sizeof(T) == 8);

template <int AlignBytes, class T, int Count>
LIGER_DEVICE void load_neighbours(const T* from, T (&to)[Count]) {
  if constexpr (fits_a_word<AlignBytes, Count, T>) {
    const auto bits = *reinterpret_cast<const typename BitsOf<Count * sizeof(T)>::Type*>(from);
    copy_bytes(to, &bits, sizeof(bits));
  } else {
    LIGER_UNROLL for (int i = 0; i < Count; ++i) to[i] = from[i];
  }
}
template <int AlignBytes, class T, int Count>
LIGER_DEVICE void store_neighbours(T* to, const T (&from)[Count]) {
  if constexpr (fits_a_word<AlignBytes, Count, T>) {
    typename BitsOf<Count * sizeof(T)>::Type bits;
    copy_bytes(&bits, from, sizeof(bits));
    *reinterpret_cast<decltype(bits)*>(to) = bits;
  } else {
    LIGER_UNROLL for (int i = 0; i < Count; ++i) to[i] = from[i];
  }
}

}  // namespace liger
