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
  static constexpr bool of_probabilities = !exact && !S.at_zero && !S.at_one;
  // So much arithmetic wants as many warps as there can be.
  static constexpr int threads_at_once = exact ? 1024 : 768;
  using A = Arithmetic<S.input>;

  A beta;
  A rest;

  LIGER_DEVICE explicit JsdMeasure(double beta) : beta(A(beta)), rest(A(1.0 - beta)) {}

  LIGER_DEVICE LossAndSlope<A> at(A x, A y) const {
    if constexpr (of_probabilities) {
      const A q = exponential<exact>(x);
      return at((y - x) * A(1.44269504088896341), q, exponential<exact>(y));
    } else {
      return of_larger(x, y);
    }
  }

  // Of q, p and log2(p / q). Nothing is chosen by which is larger: arithmetic is what the kernels
  // of 16-bit rows wait for.
  LIGER_DEVICE LossAndSlope<A> at(A log2_ratio, A q, A p) const {
    const A d = bounded(log2_ratio);
    const A log_of_m = log_m_over_q(d);
    const A of_q = -(rest * q) * log_of_m;
    return {fused(beta * p, fused(d, A(0.693147180559945309), -log_of_m), of_q), of_q};
  }
  // The slope of that over q.
  LIGER_DEVICE A slope_over_q(A log2_ratio) const {
    return -rest * log_m_over_q(bounded(log2_ratio));
  }

 private:
  // A ratio beyond 2^86 is as good as that, and so is the one of two zeros.
  static LIGER_DEVICE A bounded(A log2_ratio) { return between(log2_ratio, A(86)); }
  LIGER_DEVICE A log_m_over_q(A log2_ratio) const {
    return log_of<exact>(fused(beta, power_of_two(log2_ratio), rest));
  }

  // p * (log p - log q) of a p that may be zero.
  static LIGER_DEVICE A weighted(A p, A log_p, A log_q) {
    return p == A(0) ? A(0) : p * (log_p - log_q);
  }

  // So low that its exponential is zero, and a number whose products with zero are zero.
  static LIGER_DEVICE A finite(A x) { return x < A(-1e4) ? A(-1e4) : x; }

  LIGER_DEVICE LossAndSlope<A> of_larger(A x, A y) const {
    if constexpr (S.at_zero) {
      const A p = exponential<exact>(y);
      return {weighted(p, y, x), -p};
    } else if constexpr (S.at_one) {
      const A q = exponential<exact>(x);
      const A loss = weighted(q, x, y);
      return {loss, loss + q};
    } else {
      // All in the ratio to the larger of the two: log m itself would round as the logarithms do,
      // and p and q differ by less than that where they are alike.
      const A log_q = finite(x);
      const A log_p = finite(y);
      const A d = log_p - log_q;
      const bool above = d > A(0);
      const A below = above ? -d : d;
      const A ratio = exponential<exact>(below);
      const A larger_one = exponential<exact>(above ? log_p : log_q);
      const A share = above ? beta : rest;  // of the larger
      const A other = above ? rest : beta;
      const A log_m = log_of<exact>(fused(other, ratio, share));
      const A of_larger_one = larger_one * share * -log_m;
      const A of_smaller_one = larger_one * ratio * other * (below - log_m);
      return {of_larger_one + of_smaller_one, above ? of_smaller_one : of_larger_one};
    }
  }
};

using JsdRowsSpec = DivergenceSpec;
template <DivergenceSpec S>
using JsdRows = DivergenceRows<S, JsdMeasure>;

}  // namespace liger
