#include "base/text.h"
#include "engine/registry.h"
#include "ops/linear_loss/sequence_loss.h"

namespace liger {
namespace {

std::vector<Input> own_inputs() {
  std::vector<Input> all = {dense("preference_labels", {Dtype::i64}),
                            optional(dense("kl", {Dtype::f32, Dtype::f64}))};
  for (Input& input : reference_inputs()) all.push_back(std::move(input));
  all.push_back(real("beta", "0.1"));
  all.push_back(flag("average_log_prob"));
  return all;
}

void check(const Call& call) {
  check_sequences(call, "[sequences, tokens, hidden]");
  check_reference(call);
  const int64_t sequences = call["input"].sizes[0];
  const Tensor& labels = call["preference_labels"];
  if (labels.dims != 1 || labels.sizes[0] != sequences)
    call.refuse("preference_labels", "has shape " + shape_text(labels),
                fmt::format("[{}], one a sequence", sequences));
  const Tensor& kl = call["kl"];
  if (call.has("kl") && (kl.dims != 1 || (kl.sizes[0] != 1 && kl.sizes[0] != sequences)))
    call.refuse("kl", "has shape " + shape_text(kl), fmt::format("[1] or [{}]", sequences));
  require_positive(call, "beta");
}

Op kto() {
  Op op = sequence_loss(
      "fused_linear_kto",
      "Kahneman-Tversky optimisation of a linear layer over sequences that are each desirable or "
      "not; gradients are made in the forward",
      own_inputs(),
      {number("chosen_logps_sum"), number("rejected_logps_sum"), number("chosen_logits_sum"),
       number("rejected_logits_sum"), number("chosen_rewards_sum"),
       number("rejected_rewards_sum")});
  op.check = check;
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = sequence_samples(e);
    samples.push_back(
        {.input = "preference_labels", .shape = {e["sequences"]}, .dtype = "i64", .below = 2});
    samples.push_back({.input = "kl", .shape = {1}, .dtype = "arithmetic"});
    for (Sample& sample : reference_samples(e)) samples.push_back(std::move(sample));
    return samples;
  };
  return op;
}

const Register fused_linear_kto{kto()};

}  // namespace
}  // namespace liger
