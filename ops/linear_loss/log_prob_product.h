// When log-probabilities of a linear layer come from the product that makes its logits:
// templates/linear_loss/log_prob_product.h.
#pragma once

#include "engine/op.h"

namespace liger {

// Where the device has what the product is made for, the sizes keep it busy, and rows of logits can
// be stored by it. For bfloat16 alone.
bool log_prob_product_pays(const Place& place, int64_t tokens, int64_t hidden, int64_t classes);

}  // namespace liger
