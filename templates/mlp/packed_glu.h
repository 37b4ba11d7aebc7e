// y = act(gate) * up of one tensor that holds both.
#pragma once
#include "device/gated.h"

namespace liger {

using PackedGluForwardSpec = GatedSpec;
using PackedGluBackwardSpec = GatedSpec;

template <PackedGluForwardSpec S>
struct PackedGluForward : GatedForward<S> {};

template <PackedGluBackwardSpec S>
struct PackedGluBackward : GatedBackward<S> {};

}  // namespace liger
