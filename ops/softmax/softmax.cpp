#include "engine/registry.h"
#include "ops/softmax/probabilities.h"

namespace liger {
namespace {

const Probabilities probabilities{
    .name = "softmax",
    .kernels = "Softmax",
    .doc = "y = exp(x - max) / sum(exp(x - max)), over the last dimension",
    .backward_doc = "dx = y * (dy - sum(y * dy))",
    .fewest_threads = 1,
    .forward_may_keep = true,
};
const Register softmax{forward_of(probabilities)};
const Register softmax_backward{backward_of(probabilities)};

}  // namespace
}  // namespace liger
