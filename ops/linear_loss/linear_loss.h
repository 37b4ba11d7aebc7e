// What the declarations of losses behind a linear layer share.
#pragma once

#include "engine/op.h"

namespace liger {

// How the work is divided, in the order that all forms take it: `accumulate`, `chunk_tokens`,
// `exact`, and `counted_tokens`, how many labels are not ignored, or -1.
std::vector<Input> division_options();

// Raises for an input, a weight and a bias that make no linear layer, and for a chunk that is none.
// The input has `dims` dimensions, of which the last is the hidden size.
void check_linear_layer(const Call& call, int dims, std::string_view shape);

// A layer over single tokens: `input`, [tokens, hidden], `weight`, `ids` and `bias`; the check of
// these and of `score_options`; an example of them.
std::vector<Input> token_layer();
void check_token_layer(const Call& call);
std::vector<Sample> token_layer_samples(const Extent& extent);

}  // namespace liger
