// Generalised Jensen-Shannon divergence of log-probabilities x = log q and y = log p:
//   beta p (y - log m) + (1 - beta) q (x - log m),  m = beta p + (1 - beta) q,
// and for beta = 0 and 1 its limits over beta and 1 - beta: KL(p, q) and KL(q, p).
// A probability of zero adds nothing.
#pragma once
#include "loss/divergence.h"

namespace liger {

template <DivergenceSpec S>
struct JsdMeasure {
  static constexpr bool exact = S.input == Dtype::f32 || S.input == Dtype::f64;
  using A = Arithmetic<S.input>;

  A beta;
  A rest;

  LIGER_DEVICE explicit JsdMeasure(double beta) : beta(A(beta)), rest(A(1.0 - beta)) {}

  // p * (log p - log m) of a p that may be zero.
  static LIGER_DEVICE A weighted(A p, A difference) { return p == A(0) ? A(0) : p * difference; }

  LIGER_DEVICE LossAndSlope<A> at(A x, A y) const {
    const bool nothing = x == minus_infinity<A>() && y == minus_infinity<A>();
    const A d = nothing ? A(0) : y - x;
    if constexpr (S.at_zero) {
      const A p = exponential<exact>(y);
      return {weighted(p, d), -p};
    } else if constexpr (S.at_one) {
      const A q = exponential<exact>(x);
      const A loss = weighted(q, -d);
      return {loss, loss + q};
    } else {
      // All in the ratio to the larger of the two: log m itself would round as the logarithms do,
      // and p and q differ by less than that where they are alike.
      const bool above = d > A(0);
      const A ratio = exponential<exact>(above ? -d : d);
      const A larger_one = exponential<exact>(above ? y : x);
      const A smaller_one = larger_one * ratio;
      const A log_m = log_of<exact>(above ? fused(rest, ratio, beta) : fused(beta, ratio, rest));
      const A of_p =
          weighted(beta * (above ? larger_one : smaller_one), (above ? A(0) : d) - log_m);
      const A of_q =
          weighted(rest * (above ? smaller_one : larger_one), (above ? -d : A(0)) - log_m);
      return {of_p + of_q, of_q};
    }
  }
};

using JsdRowsSpec = DivergenceSpec;
template <DivergenceSpec S>
using JsdRows = DivergenceRows<S, JsdMeasure>;

}  // namespace liger
