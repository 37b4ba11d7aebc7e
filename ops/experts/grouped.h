// What ops on rows that are grouped by expert share in their declarations.
#pragma once

#include "engine/op.h"

namespace liger {

// Sizes of an example: tokens are its rows.
std::vector<ExampleSize> expert_sizes();
Sample routed_sample(const Extent& e);  // 'indices', [tokens, slots]
Sample pairs_sample(std::string input, const Extent& e, int64_t below);  // a number for each pair

// 'indices' is [tokens, slots], with one slot or more.
void require_routing(const Call& call);

// That tensor is [experts, size].
void require_expert_rows(const Call& call, std::string_view tensor, int64_t size);

// That integer tensor has one number for each pair of a token and an expert.
void require_pairs(const Call& call, std::string_view tensor);

}  // namespace liger
