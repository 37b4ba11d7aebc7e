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
  if constexpr (on_host) {
    Pack<A> result;
    LIGER_EACH_ELEMENT for (int i = 0; i < pack_size; ++i) {
      result.v[i] = f(first.v[i], rest.v[i]...);
    }
    return result;
  } else {
    // Spelled out: unrolling loops is most of what a compile costs.
    return {{f(first.v[0], rest.v[0]...), f(first.v[1], rest.v[1]...), f(first.v[2], rest.v[2]...),
             f(first.v[3], rest.v[3]...), f(first.v[4], rest.v[4]...), f(first.v[5], rest.v[5]...),
             f(first.v[6], rest.v[6]...), f(first.v[7], rest.v[7]...)}};
  }
}

#if defined(LIGER_HOST)
// A pack as a vector of the compiler, which it keeps in a register from one turn of a loop to the
// next.
template <class A>
struct LanesOf {
  typedef A Type __attribute__((vector_size(pack_size * sizeof(A))));
};
template <class A>
LIGER_DEVICE auto in_lanes(const Pack<A>& pack) {
  return bits_as<typename LanesOf<A>::Type>(pack);
}
LIGER_DEVICE Pack<float> as_packs(const LanesOf<float>::Type& lanes) {
  return bits_as<Pack<float>>(lanes);
}
LIGER_DEVICE Pack<double> as_packs(const LanesOf<double>::Type& lanes) {
  return bits_as<Pack<double>>(lanes);
}
// One instruction; of an array of the same number compilers make eight stores.
template <class A>
LIGER_DEVICE Pack<A> filled(A value) {
  return as_packs(
      typename LanesOf<A>::Type{value, value, value, value, value, value, value, value});
}
#else
template <class A>
LIGER_DEVICE Pack<A> filled(A value) {
  return {{value, value, value, value, value, value, value, value}};
}
#endif

template <class A>
LIGER_DEVICE Pack<A> operator*(const Pack<A>& a, const Pack<A>& b) {
  if constexpr (on_host) return as_packs(in_lanes(a) * in_lanes(b));
  return map([](A x, A y) { return x * y; }, a, b);
}
template <class A>
LIGER_DEVICE Pack<A> operator+(const Pack<A>& a, const Pack<A>& b) {
  if constexpr (on_host) return as_packs(in_lanes(a) + in_lanes(b));
  return map([](A x, A y) { return x + y; }, a, b);
}
template <class A>
LIGER_DEVICE Pack<A> operator*(const Pack<A>& a, A scale) {
  if constexpr (on_host) return as_packs(in_lanes(a) * scale);
  return map([scale](A x) { return x * scale; }, a);
}
template <class A>
LIGER_DEVICE Pack<A> operator+(const Pack<A>& a, A shift) {
  if constexpr (on_host) return as_packs(in_lanes(a) + shift);
  return map([shift](A x) { return x + shift; }, a);
}
// a * b + c in one rounding.
template <class A>
LIGER_DEVICE Pack<A> fused(const Pack<A>& a, const Pack<A>& b, const Pack<A>& c) {
  return map([](A x, A y, A z) { return fused(x, y, z); }, a, b, c);
}
#if defined(LIGER_HOST) && defined(__FMA__) && __has_builtin(__builtin_ia32_vfmaddps256)
LIGER_DEVICE Pack<float> fused(const Pack<float>& a, const Pack<float>& b, const Pack<float>& c) {
  return as_packs(__builtin_ia32_vfmaddps256(in_lanes(a), in_lanes(b), in_lanes(c)));
}
#endif

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
template <class Word>
LIGER_DEVICE void store_word(Word* to, Word word) {
  *to = word;
}
#if defined(LIGER_CUDA)
// The compiler may take an assignment apart.
LIGER_DEVICE void store_word(uint4* to, uint4 word) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(to), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
               : "memory");
}
#endif
// An element is always aligned to itself, whatever the rest of the call is.
LIGER_DEVICE constexpr int word_bytes(int align_bytes, int element_bytes) {
  return align_bytes > 16 ? 16 : (align_bytes < element_bytes ? element_bytes : align_bytes);
}
#endif

// Eight elements as they are in memory: half the registers of a Pack for 16-bit types.
template <class T>
struct RawPack {
  unsigned int words[pack_size * sizeof(T) / sizeof(unsigned int)];
};

// The same words, of which the compiler knows nothing: else it keeps all that it made of them, in
// twice the registers.
template <class T>
LIGER_DEVICE RawPack<T> anew(RawPack<T> raw) {
#if defined(LIGER_CUDA)
  LIGER_UNROLL for (unsigned int& word : raw.words) asm volatile("" : "+r"(word));
#endif
  return raw;
}

#if defined(LIGER_CUDA)
// The two 16-bit elements of a word, without the detour over memory that a compiler must see
// through.
template <class T>
LIGER_DEVICE float widen_low(unsigned int word);
template <class T>
LIGER_DEVICE float widen_high(unsigned int word);
template <>
LIGER_DEVICE float widen_low<bf16>(unsigned int word) {
  return __uint_as_float(word << 16);
}
template <>
LIGER_DEVICE float widen_high<bf16>(unsigned int word) {
  return __uint_as_float(word & 0xffff0000u);
}
template <>
LIGER_DEVICE float widen_low<f16>(unsigned int word) {
  return widen(f16{static_cast<unsigned short>(word)});
}
template <>
LIGER_DEVICE float widen_high<f16>(unsigned int word) {
  return widen(f16{static_cast<unsigned short>(word >> 16)});
}

template <class T>
LIGER_DEVICE unsigned int narrow_two(float low, float high) {
  return narrow<T>(low).bits | static_cast<unsigned int>(narrow<T>(high).bits) << 16;
}
#if __CUDA_ARCH__ >= 800
template <>
LIGER_DEVICE unsigned int narrow_two<bf16>(float low, float high) {
  unsigned int word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
template <>
LIGER_DEVICE unsigned int narrow_two<f16>(float low, float high) {
  unsigned int word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
#endif
#endif

template <class T>
constexpr bool two_bytes = sizeof(T) == 2;
template <class T>
constexpr bool is_bf16 = false;
template <>
constexpr bool is_bf16<bf16> = true;

#if defined(LIGER_HOST)
template <class T, class A>
LIGER_DEVICE void widen_eight(Pack<A>& to, const T* from) {
  for (int i = 0; i < pack_size; ++i) to.v[i] = widen(from[i]);
}
template <class T, class A>
LIGER_DEVICE void narrow_eight(T* to, const Pack<A>& from) {
  for (int i = 0; i < pack_size; ++i) to[i] = narrow<T>(from.v[i]);
}
// Element by element compilers would store a vector in four parts.
template <class A>
LIGER_DEVICE void widen_eight(Pack<A>& to, const A* from) {
  copy_bytes(to.v, from, sizeof(to.v));
}
template <class A>
LIGER_DEVICE void narrow_eight(A* to, const Pack<A>& from) {
  copy_bytes(to, from.v, sizeof(from.v));
}

// Of bfloat16 compilers would make these loops scalar, with a branch for each NaN.
using EightShorts = unsigned short __attribute__((vector_size(16)));
using SixteenShorts = unsigned short __attribute__((vector_size(32)));
using EightWords = unsigned int __attribute__((vector_size(32)));
LIGER_DEVICE EightWords in_words(const EightShorts& shorts) {
#if defined(__AVX2__) && __has_builtin(__builtin_ia32_pmovzxwd256)
  // One instruction; GCC makes five of a conversion.
  typedef short EightSigned __attribute__((vector_size(16)));
  return bits_as<EightWords>(__builtin_ia32_pmovzxwd256(bits_as<EightSigned>(shorts)));
#else
  return __builtin_convertvector(shorts, EightWords);
#endif
}
LIGER_DEVICE void widen_eight(Pack<float>& to, const bf16* from) {
  EightShorts upper;
  copy_bytes(&upper, from, sizeof(upper));
  to = bits_as<Pack<float>>(in_words(upper) << 16);
}
// Its bits are the upper halves.
LIGER_DEVICE EightWords rounded_to_bf16(const Pack<float>& from) {
  const auto values = in_lanes(from);
  const auto bits = bits_as<EightWords>(values);
  const EightWords rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const EightWords quiet = bits | 0x400000u;
  return values == values ? rounded : quiet;
}
LIGER_DEVICE void narrow_eight(bf16* to, const Pack<float>& from) {
  const EightWords chosen = rounded_to_bf16(from);
#if defined(__clang__)
  const EightShorts upper = __builtin_convertvector(chosen >> 16, EightShorts);
#else
  // One instruction less than GCC makes of that.
  const SixteenShorts odd = {1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15};
  const SixteenShorts upper = __builtin_shuffle(bits_as<SixteenShorts>(chosen), odd);
#endif
  copy_bytes(to, &upper, sizeof(EightShorts));
}
#endif

template <class T>
LIGER_DEVICE Pack<typename ArithmeticOf<T>::Type> widened(const RawPack<T>& raw) {
#if defined(LIGER_CUDA)
  const auto& w = raw.words;
  if constexpr (two_bytes<T>) {
    return {{widen_low<T>(w[0]), widen_high<T>(w[0]), widen_low<T>(w[1]), widen_high<T>(w[1]),
             widen_low<T>(w[2]), widen_high<T>(w[2]), widen_low<T>(w[3]), widen_high<T>(w[3])}};
  }
#endif
  T elements[pack_size];
  copy_bytes(elements, raw.words, sizeof(elements));
  Pack<typename ArithmeticOf<T>::Type> result;
#if defined(LIGER_HOST)
  widen_eight(result, elements);
#else
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) result.v[i] = widen(elements[i]);
#endif
  return result;
}

template <class T, class A>
LIGER_DEVICE RawPack<T> narrowed(const Pack<A>& values) {
#if defined(LIGER_CUDA)
  const auto& v = values.v;
  if constexpr (two_bytes<T>) {
    return {{narrow_two<T>(v[0], v[1]), narrow_two<T>(v[2], v[3]), narrow_two<T>(v[4], v[5]),
             narrow_two<T>(v[6], v[7])}};
  }
#endif
  T elements[pack_size];
#if defined(LIGER_HOST)
  narrow_eight(elements, values);
#else
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) elements[i] = narrow<T>(values.v[i]);
#endif
  RawPack<T> result;
  copy_bytes(result.words, elements, sizeof(elements));
  return result;
}

template <class T, class A>
LIGER_DEVICE Pack<A> rounded_to(const Pack<A>& a) {
#if defined(LIGER_CUDA)
  if constexpr (two_bytes<T>) return widened(narrowed<T>(a));
#elif defined(LIGER_HOST)
  if constexpr (is_bf16<T>) return bits_as<Pack<A>>(rounded_to_bf16(a) & 0xffff0000u);
  if constexpr (two_bytes<T>) return widened(narrowed<T>(a));
#endif
  return map([](A x) { return rounded_to<T>(x); }, a);
}

// Eight elements, or the first `Count` of a pack, from memory that is `AlignBytes` aligned.
// `Constant`: nobody writes it during the launch, so the loads may move freely and go through the
// read-only path.
template <int AlignBytes, bool Constant = true, int Count = pack_size, class T>
LIGER_DEVICE RawPack<T> load_raw(const T* from) {
  constexpr int bytes = Count * sizeof(T);
  RawPack<T> result;
  if constexpr (Count < pack_size) result = {};
#if defined(LIGER_HOST)
  copy_bytes(result.words, from, bytes);
#else
  using Word =
      typename WordOf<word_bytes(AlignBytes < bytes ? AlignBytes : bytes, sizeof(T))>::Type;
  constexpr int words = bytes / sizeof(Word);
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
  copy_bytes(result.words, raw, sizeof(raw));
#endif
  return result;
}

template <int AlignBytes, bool Constant = true, class T>
LIGER_DEVICE Pack<typename ArithmeticOf<T>::Type> load(const T* from) {
#if defined(LIGER_HOST)
  Pack<typename ArithmeticOf<T>::Type> result;
  widen_eight(result, from);
  return result;
#else
  return widened(load_raw<AlignBytes, Constant>(from));
#endif
}

// Into global memory, as they are.
template <int AlignBytes, class T>
LIGER_DEVICE void store_raw(T* to, const RawPack<T>& values) {
#if defined(LIGER_HOST)
  copy_bytes(to, values.words, sizeof(values.words));
#else
  using Word = typename WordOf<word_bytes(AlignBytes, sizeof(T))>::Type;
  constexpr int words = pack_size * sizeof(T) / sizeof(Word);
  Word raw[words];
  copy_bytes(raw, values.words, sizeof(raw));
  LIGER_UNROLL for (int i = 0; i < words; ++i) {
    store_word(reinterpret_cast<Word*>(to) + i, raw[i]);
  }
#endif
}

template <int AlignBytes, class T, class A>
LIGER_DEVICE void store(T* to, const Pack<A>& values) {
#if defined(LIGER_HOST)
  narrow_eight(to, values);
#else
  store_raw<AlignBytes>(to, narrowed<T>(values));
#endif
}

}  // namespace liger
