#include "engine/registry.h"
#include "ops/norm/norm.h"

namespace liger {
namespace {

const Register fused_add_rms_norm{Op{
    .name = "fused_add_rms_norm",
    .doc = "sum = x + residual; y = rms_norm(sum): the residual add and the norm that follows it",
    .inputs = {rows("x"), rows("residual"), optional(dense("weight")), real("eps", "1e-06"),
               real("offset", "0.0"), casting_mode(), flag("promote"), keeps_statistics()},
    .outputs = {{"y", [](const Call&) { return like("x"); }, norm_output_dtype},
                {"sum", [](const Call&) { return like("x"); },
                 [](const Call& call) { return call["x"].dtype; }},
                {"rstd", statistics_shape,
                 [](const Call& call) { return arithmetic(call["x"].dtype); }, false}},
    .check =
        [](const Call& call) {
          check_norm(call);
          require_same_shape(call, "x", "residual");
          require_same_dtype(call, "x", "residual");
        },
    .kernels = {rms_norm_kernel("FusedAddRmsNormForward", "norm/fused_add_rms_norm.h",
                                Adds::before)},
    .gradient = {.backward = "fused_add_rms_norm_backward",
                 .saved = {"sum", "weight", "rstd"},
                 .of = {{"x", "dx"}, {"residual", "dx"}, {"weight", "dweight", {"y"}}},
                 .needs_grad_flag = keeps_statistics().name},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "residual", .shape = {e["rows"], e["size"]}},
              {.input = "weight", .shape = {e["size"]}}};
    },
    .bench = {{"hidden-4096", {{"rows", 16384}, {"size", 4096}}}},
}};

const Register fused_add_rms_norm_backward{
    rms_norm_backward_op("fused_add_rms_norm_backward", true)};

}  // namespace
}  // namespace liger
