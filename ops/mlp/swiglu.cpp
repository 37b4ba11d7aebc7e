#include "engine/registry.h"
#include "ops/mlp/gated.h"

namespace liger {
namespace {

const std::vector<GatedKernel> variants = {{"Swiglu", {}}};

const Register swiglu{gated_op("swiglu",
                               "y = silu(gate) * up, silu rounded to the tensors' dtype first",
                               "mlp/swiglu.h", {}, variants)};
const Register swiglu_backward{gated_backward_op("swiglu_backward", "mlp/swiglu.h", {}, variants)};

}  // namespace
}  // namespace liger
