// y = (up + 1) * gate * sigmoid(alpha * gate) within limits, of one tensor that holds both.
#pragma once
#include "device/gated.h"

namespace liger {

using ClampedSwigluForwardSpec = GatedSpec;
using ClampedSwigluBackwardSpec = GatedSpec;

template <ClampedSwigluForwardSpec S>
struct ClampedSwigluForward : GatedForward<S> {};

template <ClampedSwigluBackwardSpec S>
struct ClampedSwigluBackward : GatedBackward<S> {};

}  // namespace liger
