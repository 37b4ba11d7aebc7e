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

// x * phi(x), phi(x) = (1 + erf(x / sqrt(2))) / 2.
struct GeluErf {
  template <bool Exact, class A>
  static LIGER_DEVICE ValueAndSlope<A> at(A x) {
    const A e = exponential<Exact>(A(-0.5) * x * x);
    const A phi = distribution<Exact>(x, e);
    return {x * phi, fused(x, A(0.3989422804014327) * e, phi)};
  }

 private:
  template <bool Exact>
  static LIGER_DEVICE double distribution(double x, double) {
    return 0.5 * (1.0 + error_function(x * 0.7071067811865476));
  }
  // phi(-|x|) = e * t * polynomial(t) with t = 1 / (1 + 0.3 |x|) and e = exp(-x^2 / 2), which the
  // slope has to have anyhow: no branch, and no cancellation where x is far below zero. The
  // polynomial was fitted to 4e-9, relative, for |x| to 14.5.
  template <bool Exact>
  static LIGER_DEVICE float distribution(float x, float e) {
    const float t = quotient<Exact>(1.0f, fused(0.3f, x < 0.0f ? -x : x, 1.0f));
    float p = -0.020623955875635147f;
    p = fused(p, t, 0.11243823170661926f);
    p = fused(p, t, -0.22821968793869019f);
    p = fused(p, t, 0.19179250299930573f);
    p = fused(p, t, -0.07942996919155121f);
    p = fused(p, t, 0.09616020321846008f);
    p = fused(p, t, 0.07838853448629379f);
    p = fused(p, t, 0.11023565381765366f);
    p = fused(p, t, 0.11957179009914398f);
    p = fused(p, t, 0.11968669295310974f);
    const float below = e * (t * p);
    return x < 0.0f ? below : 1.0f - below;
  }
};

// x * sigmoid(alpha x).
struct QuickGelu {
  template <bool Exact, class A>
  static LIGER_DEVICE ValueAndSlope<A> at(A x, A alpha) {
    const A s = sigmoid<Exact>(alpha * x);
    return {x * s, s * fused(alpha * x, A(1) - s, A(1))};
  }
};

// By the numbers that the choices of the ops have (ops/mlp/activation.h).
template <int Number>
struct ActivationOf;
template <>
struct ActivationOf<0> {
  using Type = Silu;
};
template <>
struct ActivationOf<1> {
  using Type = GeluTanh;
};
template <>
struct ActivationOf<2> {
  using Type = GeluErf;
};
template <>
struct ActivationOf<3> {
  using Type = QuickGelu;
};

// The activation of tensors of a dtype; `alpha` is that of quick GELU.
template <int Number, Dtype D, class A>
LIGER_DEVICE ValueAndSlope<A> activated(A x, A alpha = A(1.702)) {
  using Activation = typename ActivationOf<Number>::Type;
  if constexpr (Number == 3) {
    return Activation::template at<wants_exact(D)>(x, alpha);
  } else {
    return Activation::template at<wants_exact(D)>(x);
  }
}

}  // namespace liger
