#include "engine/registry.h"
#include "ops/mlp/gated.h"

namespace liger {
namespace {

const GatedOp form{
    .name = "swiglu",
    .kernel = "Swiglu",
    .doc =
        "y = silu(gate) * up, silu rounded to the tensors' dtype first; gate times "
        "gate_multiplier, y times down_multiplier, gate and up within a limit that is not 0",
    .options = {gate_multiplier(), down_multiplier(), limit()},
    .formula = {.gate_multiplier = real_option("gate_multiplier"),
                .down_multiplier = real_option("down_multiplier"),
                .limit = real_option("limit")},
    .bench = {{"width-11008", {{"rows", 8192}, {"size", 11008}}},
              {"width-14336", {{"rows", 8192}, {"size", 14336}}}},
    .check = require_limit,
};

const Register swiglu{gated_op(form)};
const Register swiglu_backward{gated_backward_op(form)};

}  // namespace
}  // namespace liger
