#include "engine/registry.h"
#include "ops/linear_loss/sequence_loss.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

std::vector<Output> metrics() {
  std::vector<Output> all = pair_metrics();
  all.push_back(number("log_odds_ratio"));
  all.push_back(number("log_odds_chosen"));
  return all;
}

Op orpo() {
  Op op = sequence_loss(
      "fused_linear_orpo",
      "odds ratio preference optimisation of a linear layer over pairs of sequences, the chosen "
      "ones first; gradients are made in the forward",
      {optional(dense("nll_ids", {Dtype::i64})), real("beta", "0.1"),
       flag("compute_nll_loss", true), real("alpha", "1.0")},
      metrics());
  op.check = [](const Call& call) {
    check_pairs(call);
    require_same_shape(call, "ids", "nll_ids");
    require_positive(call, "beta");
  };
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = sequence_samples(e);
    samples.push_back({.input = "nll_ids", .none = true});
    return samples;
  };
  return op;
}

const Register fused_linear_orpo{orpo()};

}  // namespace
}  // namespace liger
