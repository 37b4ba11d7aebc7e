// The pieces of a cross entropy, for the op over logits and for the fused linear losses that run
// them over chunks of logits.
#pragma once

#include "ops/row_knobs.h"

namespace liger {

enum class Reduction : int64_t { none = 0, mean = 1, sum = 2 };

// Inputs that all forms take after their tensors, in order.
std::vector<Input> cross_entropy_options();

// Raises for options or sizes that make no sense. `classes` is the number of logits of a row.
void check_cross_entropy(const Call& call, int64_t rows, int64_t classes, Dtype arithmetic_of);

// What a float16 gradient of a mean is kept multiplied with until the factor of a loss scaler
// arrives: p / rows alone is below what float16 holds. 1 for other types and reductions.
double gradient_unit(Dtype dtype, Reduction reduction);

Input reduction_choice();
Reduction reduction_of(const Call& call);

}  // namespace liger
