// The reductions of fused_linear_kl_div, in the order of its choices.
#pragma once

#include <cstdint>

namespace liger {

// What the sum over tokens is divided by: tokens, tokens and classes, or nothing.
enum class KlDivReduction : int64_t { batchmean, mean, sum };

}  // namespace liger
