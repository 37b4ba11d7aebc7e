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

// x * sigmoid(2u), u = sqrt(2 / pi) * (x + 0.044715 x^3): the tanh form of GELU.
struct GeluTanh {
  template <bool Exact, class A>
  static LIGER_DEVICE ValueAndSlope<A> at(A x) {
    const A k = A(0.7978845608028654);
    const A c = A(0.044715);
    const A u = k * fused(c * x * x, x, x);
    const A du = k * fused(A(3) * c * x, x, A(1));
    const A e = exponential<Exact>(A(-2) * (u < A(0) ? -u : u));
    const A share = quotient<Exact>(A(1), A(1) + e);
    const A s = u < A(0) ? e * share : share;
    return {x * s, fused(x * du, A(2) * e * share * share, s)};
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
