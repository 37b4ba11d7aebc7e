// Kullback-Leibler divergence of log-probabilities x from a target:
//   t (log(max(t, eps)) - x), or exp(t) (t - x) for a target of log-probabilities.
// A target of probability zero adds nothing, whatever x is.
#pragma once
#include "loss/divergence.h"

namespace liger {

template <DivergenceSpec S>
struct KlDivMeasure {
  static constexpr bool exact = S.input == Dtype::f32 || S.input == Dtype::f64;
  using A = Arithmetic<S.input>;

  A eps;

  LIGER_DEVICE explicit KlDivMeasure(double eps) : eps(A(eps)) {}

  LIGER_DEVICE LossAndSlope<A> at(A x, A t) const {
    if constexpr (S.log_target) {
      const A p = exponential<exact>(t);
      return {p == A(0) && x == x ? A(0) : p * (t - x), -p};
    } else {
      return {t == A(0) && x == x ? A(0) : t * (log_of<exact>(larger(t, eps)) - x), -t};
    }
  }
};

using KlDivRowsSpec = DivergenceSpec;
template <DivergenceSpec S>
using KlDivRows = DivergenceRows<S, KlDivMeasure>;

}  // namespace liger
