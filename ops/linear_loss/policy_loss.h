// What the loss of a policy takes, whether its log-probabilities are given or made by a product.
#pragma once

#include "engine/op.h"

namespace liger {

// As the choice `loss_type` counts them.
enum class PolicyLossType : uint8_t { grpo, bnpo, dr_grpo, dapo, cispo, sapo, luspo, vespo };

// Options of the formula, of which composites/linear_loss/policy_step.h says what each does.
std::vector<Input> policy_options();

// What is known of the tokens [sequences, tokens] but for their log-probabilities.
std::vector<Input> policy_tensors();
std::vector<Sample> policy_samples(int64_t sequences, int64_t tokens);

// Options, and tensors whose sizes must be those of `tokens`, [sequences, tokens].
void check_policy(const Call& call, std::string_view tokens);

}  // namespace liger
