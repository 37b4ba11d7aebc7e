// Activations with their slopes, each without cancellation at either end.
#pragma once
#include "device/math.h"

namespace liger {

template <class A>
struct ValueAndSlope {
  A value;
  A slope;
};

// x * sigmoid(x).
struct Silu {
  template <bool Exact, class A>
  static LIGER_DEVICE ValueAndSlope<A> at(A x) {
    const A s = sigmoid<Exact>(x);
    return {x * s, s * fused(x, A(1) - s, A(1))};
  }
};

// 1 / (1 + exp(-x)).
struct Sigmoid {
  template <bool Exact, class A>
  static LIGER_DEVICE ValueAndSlope<A> at(A x) {
    const A e = exponential<Exact>(x < A(0) ? x : -x);
    const A share = quotient<Exact>(A(1), A(1) + e);
    return {x < A(0) ? e * share : share, e * share * share};
  }
};

// x * sigmoid(2u), u = sqrt(2 / pi) * (x + 0.044715 x^3): the tanh form of GELU.
struct GeluTanh {
  template <bool Exact, class A>
  static LIGER_DEVICE ValueAndSlope<A> at(A x) {
    if constexpr (!Exact) return fast(x);
    const A k = A(0.7978845608028654);
    const A c = A(0.044715);
    const A u = k * fused(c * x * x, x, x);
    const A du = k * fused(A(3) * c * x, x, A(1));
    const A e = exponential<Exact>(A(-2) * (u < A(0) ? -u : u));
    const A share = quotient<Exact>(A(1), A(1) + e);
    const A s = u < A(0) ? e * share : share;
    return {x * s, fused(x * du, A(2) * e * share * share, s)};
  }

 private:
  // The same with the constants folded, for outputs of 16 bits: 1 - s loses digits only where it
  // hardly counts.
  static LIGER_DEVICE ValueAndSlope<float> fast(float x) {
    const float two_k = 1.5957691216057308f;
    const float c = 0.044715f;
    const float log2_e = 1.44269504088896341f;
    const float square = x * x;
    const float s =
        reciprocal(1.0f + power_of_two(x * fused(-two_k * c * log2_e, square, -two_k * log2_e)));
    const float twice_du = fused(3.0f * two_k * c, square, two_k);
    return {x * s, fused(x * twice_du * s, 1.0f - s, s)};
  }
};

// x * (1 + erf(x / sqrt(2))) / 2.
struct GeluErf {
  template <bool Exact, class A>
  static LIGER_DEVICE ValueAndSlope<A> at(A x) {
    const A phi = A(0.5) * (A(1) + error_function(x * A(0.7071067811865476)));
    const A density = A(0.3989422804014327) * exponential<Exact>(A(-0.5) * x * x);
    return {x * phi, fused(x, density, phi)};
  }
};

}  // namespace liger
