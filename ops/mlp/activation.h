// The activations that templates/device/activation.h has, as an option of an op.
#pragma once

#include "engine/op.h"

namespace liger {

enum class Activation : int64_t { silu, gelu_tanh, gelu, quick_gelu };

inline Input activation_choice(std::string_view otherwise) {
  return choice("activation", {"silu", "gelu_tanh", "gelu", "quick_gelu"}, otherwise);
}

}  // namespace liger
