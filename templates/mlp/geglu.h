// y = gelu(gate) * up, with the tanh form of GELU or the exact one.
#pragma once
#include "device/gated.h"

namespace liger {

using GegluTanhForwardSpec = GatedSpec;
using GegluTanhBackwardSpec = GatedSpec;
using GegluErfForwardSpec = GatedSpec;
using GegluErfBackwardSpec = GatedSpec;

template <GegluTanhForwardSpec S>
struct GegluTanhForward : GatedForward<S, GeluTanh> {};
template <GegluTanhBackwardSpec S>
struct GegluTanhBackward : GatedBackward<S, GeluTanh> {};

template <GegluErfForwardSpec S>
struct GegluErfForward : GatedForward<S, GeluErf> {};
template <GegluErfBackwardSpec S>
struct GegluErfBackward : GatedBackward<S, GeluErf> {};

}  // namespace liger
