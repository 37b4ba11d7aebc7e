#include "engine/registry.h"
#include "ops/mlp/gated.h"

namespace liger {
namespace {

Activation activation_of(const Call& call) {
  constexpr Activation forms[] = {Activation::gelu_tanh, Activation::gelu, Activation::quick_gelu};
  return forms[call.integer("approximate")];
}

const GatedOp form{
    .name = "geglu",
    .kernel = "Geglu",
    .doc =
        "y = gelu(gate) * up, GELU in its tanh form, with erf where it is not approximate, or "
        "as x * sigmoid(1.702 x); with the multipliers of swiglu",
    // As torch.nn.functional.gelu spells it, and the third form.
    .options = {choice("approximate", {"tanh", "none", "sigmoid"}, "tanh"), gate_multiplier(),
                down_multiplier()},
    .formula = {.activation = activation_of,
                .gate_multiplier = real_option("gate_multiplier"),
                .down_multiplier = real_option("down_multiplier")},
    .bench = {{"width-11008", {{"rows", 8192}, {"size", 11008}}},
              {"width-14336", {{"rows", 8192}, {"size", 14336}}}},
};

const Register geglu{gated_op(form)};
const Register geglu_backward{gated_backward_op(form)};

}  // namespace
}  // namespace liger
