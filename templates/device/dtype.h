// Element types and their conversions. No toolkit header: a compile stays under a tenth of a
// second.
#pragma once
#include "device/target.h"

namespace liger {

enum class Dtype : unsigned char { f32, f64, bf16, f16, i64, i32, i8, u8, boolean };

struct bf16 {
  unsigned short bits;
};
struct f16 {
  unsigned short bits;
};

template <Dtype D>
struct TypeOf;
template <>
struct TypeOf<Dtype::f32> {
  using Type = float;
};
template <>
struct TypeOf<Dtype::f64> {
  using Type = double;
};
template <>
struct TypeOf<Dtype::bf16> {
  using Type = bf16;
};
template <>
struct TypeOf<Dtype::f16> {
  using Type = f16;
};
template <>
struct TypeOf<Dtype::i64> {
  using Type = long long;
};
template <>
struct TypeOf<Dtype::i32> {
  using Type = int;
};
template <>
struct TypeOf<Dtype::i8> {
  using Type = signed char;
};
template <>
struct TypeOf<Dtype::u8> {
  using Type = unsigned char;
};
template <>
struct TypeOf<Dtype::boolean> {
  using Type = bool;
};
template <Dtype D>
using Type = typename TypeOf<D>::Type;

// What arithmetic on a type is done in: float, or double for float64.
template <class T>
struct ArithmeticOf {
  using Type = float;
};
template <>
struct ArithmeticOf<double> {
  using Type = double;
};
template <Dtype D>
using Arithmetic = typename ArithmeticOf<Type<D>>::Type;

LIGER_DEVICE float widen(float value) { return value; }
LIGER_DEVICE double widen(double value) { return value; }
LIGER_DEVICE float widen(bf16 value) {
  return bits_as<float>(static_cast<unsigned int>(value.bits) << 16);
}

LIGER_DEVICE float widen(f16 value) {
#if defined(LIGER_CUDA)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#elif defined(LIGER_HIP) || !defined(__clang__)
  return static_cast<float>(bits_as<_Float16>(value));
#else
  // The exponent is moved by a product, which also makes the denormals right.
  const unsigned int sign = (value.bits & 0x8000u) << 16;
  const unsigned int rest = (value.bits & 0x7fffu) << 13;
  if (rest >= 0x0f800000u) return bits_as<float>(sign | rest | 0x7f800000u);
  return bits_as<float>(sign | bits_as<unsigned int>(bits_as<float>(rest) * 0x1p112f));
#endif
}

// To nearest, ties to even; NaN stays NaN.
template <class T>
LIGER_DEVICE T narrow(float value);
template <>
LIGER_DEVICE float narrow<float>(float value) {
  return value;
}
template <>
LIGER_DEVICE double narrow<double>(float value) {
  return value;
}
template <>
LIGER_DEVICE bf16 narrow<bf16>(float value) {
#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 800
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const unsigned int bits = bits_as<unsigned int>(value);
  const unsigned int rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const unsigned int quiet = (bits >> 16) | 0x40u;
  return {static_cast<unsigned short>(value == value ? rounded : quiet)};
#endif
}
template <>
LIGER_DEVICE f16 narrow<f16>(float value) {
#if defined(LIGER_CUDA)
  f16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#elif defined(LIGER_HIP) || !defined(__clang__)
  return bits_as<f16>(static_cast<_Float16>(value));
#else
  const unsigned int bits = bits_as<unsigned int>(value);
  const unsigned int sign = (bits >> 16) & 0x8000u;
  const unsigned int magnitude = bits & 0x7fffffffu;
  unsigned int half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    // The adder rounds: 0.5 has the half's denormal step as its last bit.
    half = bits_as<unsigned int>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return {static_cast<unsigned short>(sign | half)};
#endif
}

template <class T>
LIGER_DEVICE T narrow(double value) {
  return narrow<T>(static_cast<float>(value));
}
template <>
LIGER_DEVICE double narrow<double>(double value) {
  return value;
}

// What `value` becomes when it is stored as T and read back.
template <class T, class A>
LIGER_DEVICE A rounded_to(A value) {
  return static_cast<A>(widen(narrow<T>(value)));
}

}  // namespace liger
