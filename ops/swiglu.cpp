#include "ops/gated.h"
#include "ops/registry.h"

namespace liger {
namespace {

const std::vector<GatedKernel> variants = {{"Swiglu", {}}};

const Register swiglu{gated_op("swiglu",
                               "y = silu(gate) * up, silu rounded to the tensors' dtype first",
                               "swiglu.h", {}, variants)};
const Register swiglu_backward{gated_backward_op("swiglu_backward", "swiglu.h", {}, variants)};

}  // namespace
}  // namespace liger
