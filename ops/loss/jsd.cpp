#include "base/text.h"
#include "engine/registry.h"
#include "ops/loss/divergence.h"

namespace liger {
namespace {

const Register jsd{divergence_op(
    {.name = "jsd",
     .doc = "generalised Jensen-Shannon divergence of two rows of log-probabilities; the gradient "
            "is made in the same launch",
     .kernel = "JsdRows",
     .number = "beta",
     .limits = true,
     .has_labels = true,
     .reduction = "batchmean",
     .options = {real("beta", "0.5")},
     .check = [](const Call& call) {
       const double beta = call.real("beta");
       if (!(beta >= 0.0 && beta <= 1.0)) call.refuse("beta", fmt::format("is {}", beta), "0 to 1");
     }})};

}  // namespace
}  // namespace liger
