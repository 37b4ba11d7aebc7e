// When a fused linear cross entropy takes the product that writes exponentials instead of logits.
#pragma once

#include "engine/op.h"

namespace liger {

// Where the device has what the product is made for, the sizes keep it busy, and there are
// many more classes than columns of the input. For bfloat16 alone.
bool scaled_exp_pay(const Place& place, int64_t tokens, int64_t hidden, int64_t classes);

}  // namespace liger
