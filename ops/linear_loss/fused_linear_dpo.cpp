#include "ops/linear_loss/fused_linear_dpo.h"

#include "engine/registry.h"
#include "ops/linear_loss/sequence_loss.h"

namespace liger {
namespace {

void check(const Call& call) {
  check_pairs(call);
  check_reference(call);
  const double smoothing = call.real("label_smoothing");
  const std::string found = "is " + std::to_string(smoothing);
  if (static_cast<DpoLoss>(call.integer("loss_type")) == DpoLoss::exo_pair) {
    if (!(smoothing > 0.0 && smoothing < 1.0))
      call.refuse("label_smoothing", found, "above 0 and below 1 for exo_pair");
  } else if (!(smoothing >= 0.0 && smoothing < 0.5)) {
    call.refuse("label_smoothing", found, "0 to less than 0.5");
  }
  require_positive(call, "beta");
  require_positive(call, "discopop_tau");
}

std::vector<Input> options() {
  std::vector<Input> all = reference_inputs();
  for (Input& input : std::vector<Input>{
           choice("loss_type",
                  {"sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair",
                   "sppo_hard", "apo_zero", "apo_down", "discopop"},
                  "sigmoid"),
           real("beta", "0.1"), real("label_smoothing", "0.0"), real("discopop_tau", "0.05"),
           flag("average_log_prob"), flag("compute_nll_loss"), real("alpha", "1.0")}) {
    all.push_back(std::move(input));
  }
  return all;
}

Op dpo() {
  Op op = sequence_loss(
      "fused_linear_dpo",
      "direct preference optimisation of a linear layer over pairs of sequences, the chosen ones "
      "first; over chunks of pairs, so that the logits never exist as a whole; gradients are made "
      "in the forward",
      options(), pair_metrics());
  op.check = check;
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = sequence_samples(e);
    for (Sample& sample : reference_samples(e)) samples.push_back(std::move(sample));
    return samples;
  };
  return op;
}

const Register fused_linear_dpo{dpo()};

}  // namespace
}  // namespace liger
