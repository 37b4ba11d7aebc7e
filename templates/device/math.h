// Scalar functions. `Exact` asks for the last bits: float32 and float64 outputs need them, 16-bit
// ones do not, and there the hardware's approximations keep a kernel bound by memory.
#pragma once
#include "device/dtype.h"

namespace liger {

LIGER_DEVICE constexpr bool wants_exact(Dtype dtype) {
  return dtype == Dtype::f32 || dtype == Dtype::f64;
}

// The functions of C, by the one name that each compiler has for them.
#if defined(LIGER_HOST)
#define LIGER_C_FUNCTION(NAME) __builtin_##NAME
#else
#define LIGER_C_FUNCTION(NAME) NAME
#endif

LIGER_DEVICE float fused(float a, float b, float c) { return LIGER_C_FUNCTION(fmaf)(a, b, c); }
LIGER_DEVICE double fused(double a, double b, double c) { return LIGER_C_FUNCTION(fma)(a, b, c); }

template <class A>
LIGER_DEVICE A larger(A a, A b) {
  return a > b ? a : b;
}

LIGER_DEVICE int bits_set(unsigned int word) {
#if defined(LIGER_HOST)
  return __builtin_popcount(word);
#else
  return __popc(word);
#endif
}

LIGER_DEVICE float reciprocal_root(float value) {
#if defined(LIGER_CUDA)
  return rsqrtf(value);
#else
  return 1.0f / LIGER_C_FUNCTION(sqrtf)(value);
#endif
}
LIGER_DEVICE double reciprocal_root(double value) { return 1.0 / LIGER_C_FUNCTION(sqrt)(value); }

LIGER_DEVICE float logarithm(float value) { return LIGER_C_FUNCTION(logf)(value); }
LIGER_DEVICE double logarithm(double value) { return LIGER_C_FUNCTION(log)(value); }

// exp(x) - 1
LIGER_DEVICE double growth_of(double x) { return LIGER_C_FUNCTION(expm1)(x); }

LIGER_DEVICE double error_function(double x) { return LIGER_C_FUNCTION(erf)(x); }

#if defined(LIGER_HOST)
// What follows has neither branches nor calls, so that the host compiler makes vector code of a
// loop over it.

// 1.5 * 2^23: adding it rounds to an integer, which is then in the lowest bits.
constexpr float to_integer = 12582912.0f;

// p times 2 to the integer in the lowest bits of `shifted`, all of it a normal number.
LIGER_DEVICE float times_power_of_two(float p, float shifted) {
  return bits_as<float>(bits_as<unsigned int>(p) + (bits_as<unsigned int>(shifted) << 23));
}

// exp(x - n * log(2)), n the integer next to x / log(2).
LIGER_DEVICE float exponential_less(float x, float n) {
  float r = fused(n, -0.693359375f, x);
  r = fused(n, 2.12194440e-4f, r);
  float p = 1.3814467238e-3f;  // fitted to 3e-9, relative
  p = fused(p, r, 8.3687808365e-3f);
  p = fused(p, r, 4.1668392718e-2f);
  p = fused(p, r, 1.6666519642e-1f);
  p = fused(p, r, 4.9999994040e-1f);
  p = fused(p, r, 1.0f);
  return fused(p, r, 1.0f);
}

// Bits of floats are in their order: as signed numbers where one is positive, as unsigned ones from
// the highest down where one is negative. Comparisons of floats would become branches.
LIGER_DEVICE float at_most(float x, float positive) {
  const int bits = bits_as<int>(x), most = bits_as<int>(positive);
  return bits_as<float>(bits < most ? bits : most);
}
LIGER_DEVICE float at_least(float x, float negative) {
  const unsigned int bits = bits_as<unsigned int>(x), most = bits_as<unsigned int>(negative);
  return bits_as<float>(bits < most ? bits : most);
}

// About 1 ulp; exp(-inf) = 0, exp(inf) = inf, NaN stays NaN.
LIGER_DEVICE float exponential_host(float x) {
  const float y = at_least(at_most(x, 89.0f), -104.0f);
  const float n = fused(y, 1.44269504088896341f, to_integer) - to_integer;
  const float p = exponential_less(y, n);
  // 2^n in two factors: n reaches -150, below the smallest normal exponent.
  const int whole = static_cast<int>(n);
  const int half = whole >> 1;
  const float low = bits_as<float>((half + 127) << 23);
  const float high = bits_as<float>((whole - half + 127) << 23);
  return x == x ? p * low * high : x;
}

// The same of x that is 0 or less.
LIGER_DEVICE float exponential_of_distance(float x) {
  const float y = at_least(x, -104.0f);
  const float raised_by_24 = to_integer + 24.0f;
  const float shifted = fused(y, 1.44269504088896341f, raised_by_24);
  const float n = shifted - raised_by_24;
  // 2^24 times as much is a normal number.
  const float result = times_power_of_two(exponential_less(y, n), shifted) * 0x1p-24f;
  return x == x ? result : x;
}

// 2^x to 22 bits; denormals are near zero. Below: x is 0 or less.
template <bool Below = false>
LIGER_DEVICE float power_of_two_host(float x) {
  const float y = at_least(Below ? x : at_most(x, 128.0f), -127.0f);
  const float shifted = y + to_integer;
  const float r = y - (shifted - to_integer);
  float p = 1.3264727e-3f;
  p = fused(p, r, 9.6715127e-3f);
  p = fused(p, r, 5.5507337e-2f);
  p = fused(p, r, 2.4022242e-1f);
  p = fused(p, r, 6.9314698e-1f);
  p = fused(p, r, 1.0f);
  return x == x ? times_power_of_two(p, shifted) : x;
}

// In the same way: log(0) = -inf, log(inf) = inf, NaN for what is below zero.
LIGER_DEVICE float logarithm_host(float x) {
  const bool small = x < 0x1p-126f;
  const float normal = small ? x * 0x1p23f : x;
  // x = m * 2^n with m from sqrt(1/2) to sqrt(2).
  const int from_root = bits_as<int>(normal) - 0x3f3504f3;
  const float n = static_cast<float>((from_root >> 23) - (small ? 23 : 0));
  const float f = bits_as<float>((from_root & 0x007fffff) + 0x3f3504f3) - 1.0f;
  float p = 7.0376836292e-2f;
  p = fused(p, f, -1.1514610310e-1f);
  p = fused(p, f, 1.1676998740e-1f);
  p = fused(p, f, -1.2420140846e-1f);
  p = fused(p, f, 1.4249322787e-1f);
  p = fused(p, f, -1.6668057665e-1f);
  p = fused(p, f, 2.0000714765e-1f);
  p = fused(p, f, -2.4999993993e-1f);
  p = fused(p, f, 3.3333331174e-1f);
  const float square = f * f;
  float y = fused(n, -2.12194440e-4f, f * square * p);
  y = fused(-0.5f, square, y);
  const float result = fused(n, 0.693359375f, f + y);
  const float at_most_zero = bits_as<float>(x < 0.0f ? 0x7fc00000u : 0xff800000u);
  const float finite = x > 0.0f ? result : at_most_zero;
  return x < bits_as<float>(0x7f800000u) ? finite : x;
}
#endif

// log(x) of each element of a row; `logarithm` is for one number of a row.
template <bool Exact>
LIGER_DEVICE double log_of(double x) {
  return logarithm(x);
}
template <bool Exact>
LIGER_DEVICE float log_of(float x) {
#if defined(LIGER_HOST)
  return logarithm_host(x);
#elif defined(LIGER_CUDA)
  if constexpr (Exact) {
    return logf(x);
  } else {
    float result;
    asm("lg2.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result * 0.693147180559945309f;
  }
#else
  return Exact ? logf(x) : __logf(x);
#endif
}

template <bool Exact>
LIGER_DEVICE double exponential(double x) {
  return LIGER_C_FUNCTION(exp)(x);
}
template <bool Exact>
LIGER_DEVICE float exponential(float x) {
#if defined(LIGER_HOST)
  return exponential_host(x);
#elif defined(LIGER_CUDA)
  if constexpr (Exact) {
    return expf(x);
  } else {
    float result;
    asm("ex2.approx.f32 %0, %1;" : "=f"(result) : "f"(x * 1.44269504088896341f));
    return result;
  }
#else
  return __expf(x);
#endif
}

template <bool Exact>
LIGER_DEVICE double quotient(double a, double b) {
  return a / b;
}
template <bool Exact>
LIGER_DEVICE float quotient(float a, float b) {
#if defined(LIGER_CUDA)
  const float guess = __fdividef(a, b);
  if constexpr (Exact) {
    // One step of refinement: the division operator is a call, and a call costs spills.
    const float reciprocal = __fdividef(1.0f, b);
    const float refined = fused(fused(-b, guess, a), reciprocal, guess);
    return b > 0x1p-126f && b < 0x1p126f ? refined : guess;
  } else {
    return guess;
  }
#else
  return a / b;
#endif
}

// a / b of one b and many a that are finite: on the host two steps are less than a division.
template <bool Exact>
LIGER_DEVICE double quotient(double a, double b, double) {
  return quotient<Exact>(a, b);
}
template <bool Exact>
LIGER_DEVICE float quotient(float a, float b, [[maybe_unused]] float reciprocal_of_b) {
#if defined(LIGER_HOST)
  const float guess = a * reciprocal_of_b;
  return Exact ? fused(fused(-b, guess, a), reciprocal_of_b, guess) : guess;
#else
  return quotient<Exact>(a, b);
#endif
}

// x, but -limit at least and the limit at most.
template <class A>
LIGER_DEVICE A between(A x, A limit) {
#if defined(LIGER_HOST)
  constexpr bool is_single = sizeof(A) == sizeof(float);
  if constexpr (is_single) return at_least(at_most(x, limit), -limit);
#endif
  const A below = x < limit ? x : limit;
  return below > -limit ? below : -limit;
}

// 2^x and 1 / x in one instruction each where there is one: about 22 bits, denormals are zero.
LIGER_DEVICE float power_of_two(float x) {
#if defined(LIGER_CUDA)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#elif defined(LIGER_HOST)
  return power_of_two_host(x);
#else
  return exponential<false>(x * 0.693147180559945309f);
#endif
}
LIGER_DEVICE float reciprocal(float x) {
#if defined(LIGER_CUDA)
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0f / x;
#endif
}

// 1 / (1 + exp(-x)), without cancellation at either end.
template <bool Exact, class A>
LIGER_DEVICE A sigmoid(A x) {
  if constexpr (Exact) {
    return quotient<Exact>(A(1), A(1) + exponential<Exact>(-x));
  } else {
    return reciprocal(1.0f + power_of_two(-1.44269504088896341f * x));
  }
}

// tanh(x) of |x| below 0.6, to the last bit or two: the odd polynomial that strays least there.
LIGER_DEVICE float tangent_near_zero(float x) {
  const float z = x * x;
  float p = fused(z, -0.005883233156f, 0.020785147324f);
  p = fused(z, p, -0.053780399263f);
  p = fused(z, p, 0.133318796754f);
  p = fused(z, p, -0.333332955837f);
  return fused(x * z, p, x);
}

// (tanh, 1 - tanh^2), neither with cancellation.
template <class A>
struct TanhAndSlope {
  A value;
  A slope;
};
template <bool Exact>
LIGER_DEVICE TanhAndSlope<double> hyperbolic_tangent(double x) {
  const double e = exponential<Exact>(-2.0 * (x < 0.0 ? -x : x));
  const double share = 1.0 / (1.0 + e);
  return {LIGER_C_FUNCTION(tanh)(x), 4.0 * e * share * share};
}
template <bool Exact>
LIGER_DEVICE TanhAndSlope<float> hyperbolic_tangent(float x) {
  const float magnitude = x < 0.0f ? -x : x;
  float e, share, near_zero, near;
  if constexpr (Exact) {
    e = exponential<Exact>(-2.0f * magnitude);
    share = quotient<Exact>(1.0f, 1.0f + e);
    near_zero = tangent_near_zero(x);
    near = 0.6f;
  } else {
    e = power_of_two(-2.88539008177792681f * magnitude);
    share = reciprocal(1.0f + e);
    near_zero = fused(x * x * x, -0.333333333f, x);
    near = 0.015625f;
  }
  const float far = (1.0f - e) * share;
  float value = x < 0.0f ? -far : far;
  float slope = 4.0f * e * share * share;
  value = magnitude < near ? near_zero : value;
  // In one rounding where nothing cancels.
  if constexpr (Exact) slope = magnitude < near ? fused(-value, value, 1.0f) : slope;
  return {value, slope};
}

}  // namespace liger
