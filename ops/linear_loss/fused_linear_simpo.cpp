#include "engine/registry.h"
#include "ops/linear_loss/sequence_loss.h"

namespace liger {
namespace {

Op simpo() {
  Op op = sequence_loss(
      "fused_linear_simpo",
      "simple preference optimisation of a linear layer over pairs of sequences, the chosen ones "
      "first; gradients are made in the forward",
      {real("beta", "0.1"), real("gamma", "0.5"), real("label_smoothing", "0.0"),
       flag("compute_nll_loss"), real("alpha", "1.0")},
      pair_metrics());
  op.check = [](const Call& call) {
    check_pairs(call);
    require_positive(call, "beta");
    require_share(call, "label_smoothing");
  };
  return op;
}

const Register fused_linear_simpo{simpo()};

}  // namespace
}  // namespace liger
