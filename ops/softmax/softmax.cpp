#include "engine/registry.h"
#include "ops/resident_rows.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

Spec spec_of(const Call& call, std::string_view x, const RereadRows& rows) {
  return {{"x", call[x].dtype},
          {"width", call[x].last_size()},
          {"align_bytes", rows.align_bytes()},
          {"held", rows.resident()}};
}

const Register softmax{Op{
    .name = "softmax",
    .doc = "y = exp(x - max) / sum(exp(x - max)), over the last dimension",
    .inputs = {rows("x")},
    .outputs = {{"y", [](const Call&) { return like("x"); },
                 [](const Call& call) { return call["x"].dtype; }}},
    .kernels = {reread_kernel(
        {.name = "SoftmaxForward",
         .source = "softmax/softmax.h",
         .spec = [](const Call& call) { return spec_of(call, "x", RereadRows(call, {"x"}, "y")); },
         .arguments = {"x", "y", {"rows", "x.rows"}, {"x_stride", "x.stride"}}},
        {"x"}, "y", 1)},
    .gradient = {.backward = "softmax_backward", .saved = {"y"}, .of = {{"x", "dx"}}},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}}};
    },
    .bench = {{"width-2048", {{"rows", 65536}, {"size", 2048}}},
              {"width-32768", {{"rows", 8192}, {"size", 32768}}},
              {"width-131072", {{"rows", 2048}, {"size", 131072}}}},
}};

const Register softmax_backward{Op{
    .name = "softmax_backward",
    .doc = "dx = y * (dy - sum(y * dy))",
    .internal = true,
    .inputs = {rows("dy"), rows("y"), mask("output_mask", 1)},
    .outputs = {{"dx", [](const Call&) { return like("y"); },
                 [](const Call& call) { return call["y"].dtype; }}},
    .check =
        [](const Call& call) {
          require_same_shape(call, "y", "dy");
          require_same_dtype(call, "y", "dy");
        },
    .kernels = {reread_kernel({.name = "SoftmaxBackward",
                               .source = "softmax/softmax.h",
                               .spec =
                                   [](const Call& call) {
                                     return spec_of(call, "y", RereadRows(call, {"y", "dy"}, "dx"));
                                   },
                               .arguments = {"dy",
                                             "y",
                                             "dx",
                                             {"rows", "y.rows"},
                                             {"dy_stride", "dy.stride"},
                                             {"y_stride", "y.stride"}}},
                              {"y", "dy"}, "dx", 1)},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "dy", .shape = {e["rows"], e["size"]}},
              {.input = "y", .shape = {e["rows"], e["size"]}},
              {.input = "output_mask", .value = 1}};
    },
}};

}  // namespace
}  // namespace liger
