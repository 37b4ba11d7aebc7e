// Total variation distance: |p - q| / 2. Where the two are equal the gradient is zero.
#pragma once
#include "loss/divergence.h"

namespace liger {

template <DivergenceSpec S>
struct TvdMeasure {
  static constexpr bool of_probabilities = false;
  using A = Arithmetic<S.input>;

  LIGER_DEVICE explicit TvdMeasure(double) {}

  LIGER_DEVICE LossAndSlope<A> at(A p, A q) const {
    const A d = p - q;
    const A half = d > A(0) ? A(0.5) : (d < A(0) ? A(-0.5) : A(0));
    return {half * d, half};
  }
};

using TvdRowsSpec = DivergenceSpec;
template <DivergenceSpec S>
using TvdRows = DivergenceRows<S, TvdMeasure>;

}  // namespace liger
