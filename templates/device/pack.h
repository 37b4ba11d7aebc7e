// Eight neighbouring elements in arithmetic type: the unit in which rows are read, combined and
// written.
#pragma once
#include "device/math.h"

namespace liger {

constexpr int pack_size = 8;

template <class A>
struct Pack {
  A v[pack_size];
};

// f applied to each element of the given packs.
template <class A, class F, class... Packs>
LIGER_DEVICE Pack<A> map(F&& f, const Pack<A>& first, const Packs&... rest) {
  Pack<A> result;
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) result.v[i] = f(first.v[i], rest.v[i]...);
  return result;
}

template <class A>
LIGER_DEVICE Pack<A> filled(A value) {
  Pack<A> result;
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) result.v[i] = value;
  return result;
}

template <class A>
LIGER_DEVICE Pack<A> operator*(const Pack<A>& a, const Pack<A>& b) {
  return map([](A x, A y) { return x * y; }, a, b);
}
template <class A>
LIGER_DEVICE Pack<A> operator+(const Pack<A>& a, const Pack<A>& b) {
  return map([](A x, A y) { return x + y; }, a, b);
}
template <class A>
LIGER_DEVICE Pack<A> operator*(const Pack<A>& a, A scale) {
  return map([scale](A x) { return x * scale; }, a);
}
template <class A>
LIGER_DEVICE Pack<A> operator+(const Pack<A>& a, A shift) {
  return map([shift](A x) { return x + shift; }, a);
}
// a * b + c in one rounding.
template <class A>
LIGER_DEVICE Pack<A> fused(const Pack<A>& a, const Pack<A>& b, const Pack<A>& c) {
  return map([](A x, A y, A z) { return fused(x, y, z); }, a, b, c);
}

template <class T, class A>
LIGER_DEVICE Pack<A> rounded_to(const Pack<A>& a) {
  return map([](A x) { return rounded_to<T>(x); }, a);
}

// The fixed tree inside a pack: halves are added, from the highest bit of the index to the lowest.
template <class A>
LIGER_DEVICE A total(const Pack<A>& a) {
  const A first = (a.v[0] + a.v[4]) + (a.v[2] + a.v[6]);
  const A second = (a.v[1] + a.v[5]) + (a.v[3] + a.v[7]);
  return first + second;
}
template <class A>
LIGER_DEVICE A largest(const Pack<A>& a) {
  const A first = larger(larger(a.v[0], a.v[4]), larger(a.v[2], a.v[6]));
  const A second = larger(larger(a.v[1], a.v[5]), larger(a.v[3], a.v[7]));
  return larger(first, second);
}

#if !defined(LIGER_HOST)
template <int Bytes>
struct WordOf;
template <>
struct WordOf<16> {
  using Type = uint4;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<4> {
  using Type = unsigned int;
};
template <>
struct WordOf<2> {
  using Type = unsigned short;
};
// An element is always aligned to itself, whatever the rest of the call is.
LIGER_DEVICE constexpr int word_bytes(int align_bytes, int element_bytes) {
  return align_bytes > 16 ? 16 : (align_bytes < element_bytes ? element_bytes : align_bytes);
}
#endif

// Eight elements from memory that is `AlignBytes` aligned. `Constant`: nobody writes it during the
// launch, so the loads may move freely and go through the read-only path.
template <int AlignBytes, bool Constant = true, class T>
LIGER_DEVICE Pack<typename ArithmeticOf<T>::Type> load(const T* from) {
  Pack<typename ArithmeticOf<T>::Type> result;
#if defined(LIGER_HOST)
  for (int i = 0; i < pack_size; ++i) result.v[i] = widen(from[i]);
#else
  using Word = typename WordOf<word_bytes(AlignBytes, sizeof(T))>::Type;
  constexpr int words = pack_size * sizeof(T) / sizeof(Word);
  Word raw[words];
  LIGER_UNROLL for (int i = 0; i < words; ++i) {
#if defined(LIGER_CUDA)
    if constexpr (Constant) {
      raw[i] = __ldg(reinterpret_cast<const Word*>(from) + i);
    } else {
      raw[i] = reinterpret_cast<const Word*>(from)[i];
    }
#else
    raw[i] = reinterpret_cast<const Word*>(from)[i];
#endif
  }
  T elements[pack_size];
  copy_bytes(elements, raw, sizeof(raw));
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) result.v[i] = widen(elements[i]);
#endif
  return result;
}

template <int AlignBytes, class T, class A>
LIGER_DEVICE void store(T* to, const Pack<A>& values) {
#if defined(LIGER_HOST)
  for (int i = 0; i < pack_size; ++i) to[i] = narrow<T>(values.v[i]);
#else
  using Word = typename WordOf<word_bytes(AlignBytes, sizeof(T))>::Type;
  constexpr int words = pack_size * sizeof(T) / sizeof(Word);
  T elements[pack_size];
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) elements[i] = narrow<T>(values.v[i]);
  Word raw[words];
  copy_bytes(raw, elements, sizeof(raw));
  LIGER_UNROLL for (int i = 0; i < words; ++i) reinterpret_cast<Word*>(to)[i] = raw[i];
#endif
}

}  // namespace liger
