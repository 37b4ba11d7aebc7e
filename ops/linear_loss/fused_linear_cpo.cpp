#include "engine/registry.h"
#include "ops/linear_loss/sequence_loss.h"

namespace liger {
namespace {

Op cpo() {
  Op op = sequence_loss(
      "fused_linear_cpo",
      "contrastive preference optimisation of a linear layer over pairs of sequences, the chosen "
      "ones first; gradients are made in the forward",
      {real("beta", "0.1"), real("label_smoothing", "0.0"), flag("average_log_prob"),
       flag("compute_nll_loss", true), real("alpha", "1.0")},
      pair_metrics());
  op.check = [](const Call& call) {
    check_pairs(call);
    require_positive(call, "beta");
    require_share(call, "label_smoothing");
  };
  return op;
}

const Register fused_linear_cpo{cpo()};

}  // namespace
}  // namespace liger
