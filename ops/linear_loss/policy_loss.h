// What the loss of a policy takes, whether its log-probabilities are given or made by a product.
//
// With l the log-probabilities, A the advantage of a sequence and r = exp(l - old), or exp of the
// mean of that over a sequence ("sequence"; old is l held constant where it is not given):
//   others: -min(min(r, delta) A, clamp(r, 1 - epsilon_low, 1 + epsilon_high) A)
//   cispo:  -min(r, epsilon_high) A l, the first factor held constant
//   sapo:   -4/t sigmoid(t (r - 1)) A, t by the sign of A
//   vespo:  -phi(w) A l, phi(w) = w^k exp(lambda (1 - w)), w the ratio of the whole sequence
// times importance_ratio (in vespo a factor of w), plus beta * KL, where
//   KL = exp(ref - l) - (ref - l) - 1, times r with bias_corrected_kl,
// and all of that times the token's weight.
#pragma once

#include "engine/op.h"

namespace liger {

// As the choice `loss_type` counts them.
enum class PolicyLossType : uint8_t { grpo, bnpo, dr_grpo, dapo, cispo, sapo, luspo, vespo };

// Options of the formula, of which the head of this file says what each does.
std::vector<Input> policy_options();

// What is known of the tokens [sequences, tokens] but for their log-probabilities.
std::vector<Input> policy_tensors();
std::vector<Sample> policy_samples(int64_t sequences, int64_t tokens);

// Options, and tensors whose sizes must be those of `tokens`, [sequences, tokens].
void check_policy(const Call& call, std::string_view tokens);

}  // namespace liger
