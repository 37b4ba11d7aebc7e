#include "engine/registry.h"
#include "ops/norm/norm.h"

namespace liger {
namespace {

Dtype x_dtype(const Call& call) { return call["x"].dtype; }
Dtype statistics_dtype(const Call& call) { return arithmetic(call["x"].dtype); }

const Register fused_add_layer_norm{Op{
    .name = "fused_add_layer_norm",
    .doc = "sum = x + residual; y = layer_norm(sum): the residual add and the norm that follows it",
    .inputs = {rows("x"), rows("residual"), optional(dense("weight")), optional(dense("bias")),
               real("eps", "1e-06"), keeps_statistics()},
    .outputs = {{"y", [](const Call&) { return like("x"); }, x_dtype},
                {"sum", [](const Call&) { return like("x"); }, x_dtype},
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
    .kernels = {layer_norm_kernel("FusedAddLayerNormForward", "norm/fused_add_layer_norm.h",
                                  Adds::before)},
    .gradient = {.backward = "fused_add_layer_norm_backward",
                 .saved = {"sum", "weight", "bias", "mean", "rstd"},
                 .of = {{"x", "dx"},
                        {"residual", "dx"},
                        {"weight", "dweight", {"y"}},
                        {"bias", "dbias", {"y"}}},
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

const Register fused_add_layer_norm_backward{
    layer_norm_backward_op("fused_add_layer_norm_backward", true)};

}  // namespace
}  // namespace liger
