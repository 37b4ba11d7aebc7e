#include "engine/registry.h"
#include "ops/norm/norm.h"

namespace liger {
namespace {

const Register rms_norm_add{Op{
    .name = "rms_norm_add",
    .doc = "y = residual + rms_norm(x): the norm after a block and the residual add that follows",
    .inputs = {rows("x"), rows("residual"), optional(dense("weight")), real("eps", "1e-06"),
               real("offset", "0.0"), casting_mode(), flag("promote"), keeps_statistics()},
    .outputs = {{"y", [](const Call&) { return like("x"); }, norm_output_dtype},
                {"rstd", statistics_shape,
                 [](const Call& call) { return arithmetic(call["x"].dtype); }, false}},
    .check =
        [](const Call& call) {
          check_norm(call);
          require_same_shape(call, "x", "residual");
          require_same_dtype(call, "x", "residual");
        },
    .kernels = {rms_norm_kernel("RmsNormAddForward", "norm/rms_norm_add.h", Adds::after)},
    .gradient = {.backward = "rms_norm_backward",
                 .saved = {"x", "weight", "rstd"},
                 .of = {{"x", "dx"}, {.input = "residual", .added_to = "y"}, {"weight", "dweight"}},
                 .needs_grad_flag = keeps_statistics().name},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "residual", .shape = {e["rows"], e["size"]}},
              {.input = "weight", .shape = {e["size"]}}};
    },
    .bench = {{"hidden-4096", {{"rows", 16384}, {"size", 4096}}},
              {"hidden-2304", {{"rows", 16384}, {"size", 2304}}}},
}};

}  // namespace
}  // namespace liger
