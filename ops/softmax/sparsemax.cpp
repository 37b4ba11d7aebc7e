#include "engine/registry.h"
#include "ops/softmax/probabilities.h"

namespace liger {
namespace {

const Probabilities probabilities{
    .name = "sparsemax",
    .kernels = "Sparsemax",
    .doc = "y = max(x - tau, 0) over the last dimension, with the tau for which it sums to one",
    .backward_doc = "dx = dy - mean(dy) where y > 0, else 0",
    .fewest_threads = 32,
    .forward_may_keep = false,
};
const Register sparsemax{forward_of(probabilities)};
const Register sparsemax_backward{backward_of(probabilities)};

}  // namespace
}  // namespace liger
