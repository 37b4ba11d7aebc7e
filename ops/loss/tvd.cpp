#include "engine/registry.h"
#include "ops/loss/divergence.h"

namespace liger {
namespace {

const Register tvd{divergence_op(
    {.name = "tvd",
     .doc = "total variation distance of two rows of probabilities; the gradient is made in the "
            "same launch",
     .kernel = "TvdRows",
     .has_labels = true,
     .reduction = "mean"})};

}  // namespace
}  // namespace liger
