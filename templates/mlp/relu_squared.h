// y = max(x, 0)^2 and dx = 2 * max(x, 0) * dy.
#pragma once
#include "device/unary.h"

namespace liger {

struct ReluSquared {
  // NaN stays NaN.
  template <class A>
  static LIGER_DEVICE A value(A x) {
    return x < A(0) ? A(0) : x * x;
  }
  // Zero where x is not above it, also of a dy that is infinite.
  template <class A>
  static LIGER_DEVICE A gradient(A dy, A x) {
    return x <= A(0) ? A(0) : A(2) * x * dy;
  }
};

using ReluSquaredForwardSpec = UnarySpec;
using ReluSquaredBackwardSpec = UnarySpec;

template <UnarySpec S>
struct ReluSquaredForward : UnaryForward<S, ReluSquared> {};
template <UnarySpec S>
struct ReluSquaredBackward : UnaryBackward<S, ReluSquared> {};

}  // namespace liger
