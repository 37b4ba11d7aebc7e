// The log-probability of one chosen class of a row, for the op over logits and for the linear
// losses that run its kernels over chunks of logits.
#pragma once

#include "ops/row_knobs.h"

namespace liger {

// What each row's statistics are: numbers that the gradient is made of.
constexpr int64_t log_prob_statistics = 3;

// How logits become scores, in the order that all forms take it: temperature, softcap,
// ignore_index.
std::vector<Input> score_options();

// Of classes that are spread over ranks, as many on each and in their order: `rank`, `ranks`.
std::vector<Input> rank_options();
void check_ranks(const Call& call);

// Raises for options that make no sense.
void check_scores(const Call& call);

}  // namespace liger
