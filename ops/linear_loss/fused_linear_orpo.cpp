#include "engine/registry.h"
#include "ops/linear_loss/sequence_loss.h"

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
      {real("beta", "0.1"), flag("compute_nll_loss", true), real("alpha", "1.0")}, metrics());
  op.check = [](const Call& call) {
    check_pairs(call);
    require_positive(call, "beta");
  };
  return op;
}

const Register fused_linear_orpo{orpo()};

}  // namespace
}  // namespace liger
