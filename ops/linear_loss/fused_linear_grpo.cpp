#include "engine/registry.h"
#include "ops/linear_loss/policy_loss.h"
#include "ops/linear_loss/sequence_loss.h"

namespace liger {
namespace {

std::vector<Input> policy_inputs() {
  std::vector<Input> all = policy_tensors();
  for (Input& option : policy_options()) all.push_back(std::move(option));
  return all;
}

Op grpo() {
  Op op = sequence_loss(
      "fused_linear_grpo",
      "policy_loss of a linear layer's log-probabilities, over chunks of tokens, so that the "
      "logits never exist as a whole; gradients are made in the forward",
      policy_inputs(), {number("kl"), number("clip_ratio")});
  op.check = [](const Call& call) {
    check_sequences(call, "[sequences, tokens, hidden]");
    check_policy(call, "ids");
  };
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = sequence_samples(e);
    for (Sample& sample : policy_samples(e["sequences"], e["rows"]))
      samples.push_back(std::move(sample));
    // Ratios of single tokens are as wide apart as random log-probabilities make them.
    samples.push_back({.input = "loss_type", .value = 0});
    samples.push_back({.input = "importance_sampling_level", .value = 1});
    samples.push_back({.input = "beta", .value = 0});
    return samples;
  };
  op.bench[0].ignored_first = 0;  // the mask says what counts
  return op;
}

const Register fused_linear_grpo{grpo()};

}  // namespace
}  // namespace liger
