// How far a student is from a teacher, for the kernel over chunks of logits and for the losses
// behind linear layers that run it.
#pragma once

#include "ops/row_knobs.h"

namespace liger {

enum class Distance : int64_t { jsd, tvd, cosine };

// `divergence`, `beta`, the two weights, `temperature` and `ignore_index`, in the order that all
// forms take them.
std::vector<Input> distillation_options();

// Raises for options that make no sense.
void check_distillation(const Call& call);

}  // namespace liger
