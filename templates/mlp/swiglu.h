// y = silu(gate) * up.
#pragma once
#include "device/gated.h"

namespace liger {

using SwigluForwardSpec = GatedSpec;
using SwigluBackwardSpec = GatedSpec;

template <SwigluForwardSpec S>
struct SwigluForward : GatedForward<S> {};

template <SwigluBackwardSpec S>
struct SwigluBackward : GatedBackward<S> {};

}  // namespace liger
