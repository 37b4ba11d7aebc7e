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
    .kernels = {{.name = "FusedAddRmsNormForward",
                 .source = "norm/fused_add_rms_norm.h",
                 .spec = [](const Call& call) -> Spec {
                   return {{"x", call["x"].dtype},
                           {"weight", weight_dtype(call, "x")},
                           {"y", norm_output_dtype(call)},
                           {"has_weight", call.has("weight")},
                           {"round_early", round_early(call)},
                           {"hidden", call["x"].last_size()},
                           {"align_bytes", int64_t{call.align_bytes()}},
                           {"hold", holds(call, "x", 1)}};
                 },
                 .candidates =
                     [](const Call& call) {
                       return row_candidates(call, call["x"].last_size(),
                                             holds(call, "x", 1) ? 1 : 0);
                     },
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(call["x"].rows(), knobs); },
                 .arguments = {"x",
                               "residual",
                               "weight",
                               "y",
                               "sum",
                               "rstd",
                               {"rows", "x.rows"},
                               {"x_stride", "x.stride"},
                               {"residual_stride", "residual.stride"},
                               "eps",
                               "offset"}}},
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
