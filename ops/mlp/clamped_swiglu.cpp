#include "base/text.h"
#include "engine/registry.h"
#include "ops/mlp/gated.h"

namespace liger {
namespace {

void check_options(const Call& call) {
  require_limit(call);
  const double alpha = call.real("alpha");
  if (!(alpha > 0.0)) call.refuse("alpha", fmt::format("is {}", alpha), "above 0");
}

const GatedOp form{
    .name = "clamped_swiglu",
    .kernel = "ClampedSwiglu",
    .doc =
        "y = (up + 1) * gate * sigmoid(alpha * gate) of one tensor that holds both, gate at "
        "most the limit and up within it; gpt-oss's, whose gate and up are interleaved",
    .packed = true,
    .options = {real("alpha", "1.702"), real("limit", "7.0"), flag("interleaved", true)},
    .formula = {.activation = [](const Call&) { return Activation::quick_gelu; },
                .alpha = real_option("alpha"),
                .limit = real_option("limit"),
                .lifted = true},
    .bench = {{"width-2880", {{"rows", 32768}, {"size", 2880}}},
              {"width-14336", {{"rows", 8192}, {"size", 14336}}}},
    .check = check_options,
};

const Register clamped_swiglu{gated_op(form)};
const Register clamped_swiglu_backward{gated_backward_op(form)};

}  // namespace
}  // namespace liger
