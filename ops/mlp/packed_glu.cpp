#include "engine/registry.h"
#include "ops/mlp/gated.h"

namespace liger {
namespace {

const GatedOp form{
    .name = "packed_glu",
    .kernel = "PackedGlu",
    .doc =
        "y = act(gate) * up of one tensor that holds both: its halves, or in turns where they "
        "are interleaved; with the multipliers and the limit of swiglu",
    .packed = true,
    .options = {activation_choice("silu"), flag("interleaved"), gate_multiplier(),
                down_multiplier(), limit()},
    .formula = {.activation =
                    [](const Call& call) {
                      return static_cast<Activation>(call.integer("activation"));
                    },
                .gate_multiplier = real_option("gate_multiplier"),
                .down_multiplier = real_option("down_multiplier"),
                .limit = real_option("limit")},
    .bench = {{"width-11008", {{"rows", 8192}, {"size", 11008}}},
              {"width-14336", {{"rows", 8192}, {"size", 14336}}}},
    .check = require_limit,
};

const Register packed_glu{gated_op(form)};
const Register packed_glu_backward{gated_backward_op(form)};

}  // namespace
}  // namespace liger
