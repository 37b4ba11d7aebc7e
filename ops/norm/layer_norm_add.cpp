#include "engine/registry.h"
#include "ops/norm/norm.h"

namespace liger {
namespace {

Dtype x_dtype(const Call& call) { return call["x"].dtype; }
Dtype statistics_dtype(const Call& call) { return arithmetic(call["x"].dtype); }

const Register layer_norm_add{Op{
    .name = "layer_norm_add",
    .doc = "y = residual + layer_norm(x): the norm after a block and the residual add that follows",
    .inputs = {rows("x"), rows("residual"), optional(dense("weight")), optional(dense("bias")),
               real("eps", "1e-06"), keeps_statistics()},
    .outputs = {{"y", [](const Call&) { return like("x"); }, x_dtype},
                {"mean", statistics_shape, statistics_dtype, false},
                {"rstd", statistics_shape, statistics_dtype, false}},
    .check =
        [](const Call& call) {
          require_vector(call, "weight", "x");
          require_vector(call, "bias", "x");
          require_eps(call);
          require_same_shape(call, "x", "residual");
          require_same_dtype(call, "x", "residual");
        },
    .kernels = {layer_norm_kernel("LayerNormAddForward", "norm/layer_norm_add.h", Adds::after)},
    .gradient = {.backward = "layer_norm_backward",
                 .saved = {"x", "weight", "bias", "mean", "rstd"},
                 .of = {{"x", "dx"},
                        {.input = "residual", .added_to = "y"},
                        {"weight", "dweight"},
                        {"bias", "dbias"}},
                 .needs_grad_flag = keeps_statistics().name},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "residual", .shape = {e["rows"], e["size"]}},
              {.input = "weight", .shape = {e["size"]}},
              {.input = "bias", .shape = {e["size"]}}};
    },
    .bench = {{"hidden-4096", {{"rows", 16384}, {"size", 4096}}}},
}};

}  // namespace
}  // namespace liger
