// y = gelu(gate) * up, in any of GELU's forms.
#pragma once
#include "device/gated.h"

namespace liger {

using GegluForwardSpec = GatedSpec;
using GegluBackwardSpec = GatedSpec;

template <GegluForwardSpec S>
struct GegluForward : GatedForward<S> {};

template <GegluBackwardSpec S>
struct GegluBackward : GatedBackward<S> {};

}  // namespace liger
