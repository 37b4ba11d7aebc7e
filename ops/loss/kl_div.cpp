#include "engine/registry.h"
#include "ops/loss/divergence.h"

namespace liger {
namespace {

const Register kl_div{divergence_op(
    {.name = "kl_div",
     .doc = "Kullback-Leibler divergence of log-probabilities from a target; the gradient is made "
            "in the same launch",
     .kernel = "KlDivRows",
     .number = "eps",
     .log_target = "log_target",
     .reduction = "mean",
     .options = {flag("log_target"), real("eps", "1e-10")},
     .check = require_eps,
     .target_is_probabilities = true})};

}  // namespace
}  // namespace liger
