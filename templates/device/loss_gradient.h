// What the kernels of cross entropy do to one logit: its score, and its gradient in place.
#pragma once
#include "device/softmax.h"

namespace liger {

// z = softcap * tanh(x / softcap), or x.
template <bool Exact, bool Softcap, class A>
LIGER_DEVICE A capped(A x, double softcap) {
  if constexpr (Softcap) {
    return A(softcap) * hyperbolic_tangent<Exact>(quotient<true>(x, A(softcap))).value;
  } else {
    return x;
  }
}

// Of a row, whose gradient is
//   dz[c] = of_exp * exp(z[c] - max) - of_weight * w[c] - (c == y ? at_label : 0).
// Each shifts the whole row, so for exact types they are made in double.
template <class A>
struct RowGradient {
  A max;
  A of_exp;
  A of_weight;
  A at_label;
};

// dx of a logit x whose class has that weight; `at_label` is -row.at_label there, else 0.
template <bool Exact, bool Softcap, bool Smoothing, class A>
LIGER_DEVICE A gradient_of_logit(A x, A weight, A at_label, const RowGradient<A>& row,
                                 double softcap) {
  A z = x;
  A slope = 1;
  if constexpr (Softcap) {
    const auto t = hyperbolic_tangent<Exact>(quotient<true>(x, A(softcap)));
    z = A(softcap) * t.value;
    slope = t.slope;
  }
  // Not exp(z - lse): the rounding of lse would shift the whole row.
  A d = fused(row.of_exp, probability<Exact>(z - row.max), at_label);
  if constexpr (Smoothing) d = fused(-row.of_weight, weight, d);
  return d * slope;
}

}  // namespace liger
