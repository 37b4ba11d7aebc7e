// y = max(x, 0)^2 and dx = 2 * max(x, 0) * dy.
#pragma once
#include "device/unary.h"

namespace liger {

struct ReluSquared {
  // NaN stays NaN.
  struct Value {
    template <class A>
    LIGER_DEVICE A operator()(const A& x) const {
      return x < A{} ? A{} : x * x;
    }
  };
  // Zero where x is not above it, also of a dy that is infinite.
  struct Gradient {
    template <class A>
    LIGER_DEVICE A operator()(const A& dy, const A& x) const {
      return x <= A{} ? A{} : (x + x) * dy;
    }
  };
};

using ReluSquaredForwardSpec = UnarySpec;
using ReluSquaredBackwardSpec = UnarySpec;

template <UnarySpec S>
struct ReluSquaredForward : UnaryForward<S, ReluSquared> {};
template <UnarySpec S>
struct ReluSquaredBackward : UnaryBackward<S, ReluSquared> {};

}  // namespace liger
