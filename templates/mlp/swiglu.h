// y = silu(gate) * up.
#pragma once
#include "device/gated.h"

namespace liger {

using SwigluForwardSpec = GatedSpec;
using SwigluBackwardSpec = GatedSpec;

template <SwigluForwardSpec S>
struct SwigluForward : GatedForward<S, Silu> {};

template <SwigluBackwardSpec S>
struct SwigluBackward : GatedBackward<S, Silu> {};

}  // namespace liger
