#include "engine/registry.h"
#include "ops/mlp/gated.h"

namespace liger {
namespace {

// As torch.nn.functional.gelu spells it.
Input approximate() { return choice("approximate", {"tanh", "none"}, "tanh"); }

const std::vector<GatedKernel> variants = {
    {"GegluTanh", [](const Call& call) { return call.integer("approximate") == 0; }},
    {"GegluErf", [](const Call& call) { return call.integer("approximate") == 1; }},
};

const Register geglu{gated_op(
    "geglu", "y = gelu(gate) * up, GELU in its tanh form, or with erf where it is not approximate",
    "mlp/geglu.h", {approximate()}, variants)};
const Register geglu_backward{
    gated_backward_op("geglu_backward", "mlp/geglu.h", {approximate()}, variants)};

}  // namespace
}  // namespace liger
