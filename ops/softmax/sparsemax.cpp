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

const Register sparsemax{Op{
    .name = "sparsemax",
    .doc = "y = max(x - tau, 0) over the last dimension, with the tau for which it sums to one",
    .inputs = {rows("x")},
    .outputs = {{"y", [](const Call&) { return like("x"); },
                 [](const Call& call) { return call["x"].dtype; }}},
    .kernels = {reread_kernel(
        {.name = "SparsemaxForward",
         .source = "softmax/sparsemax.h",
         .spec =
             [](const Call& call) {
               return spec_of(call, "x", RereadRows(call, {"x"}, "y", false));
             },
         .arguments = {"x", "y", {"rows", "x.rows"}, {"x_stride", "x.stride"}}},
        {"x"}, "y", 32, false)},
    .gradient = {.backward = "sparsemax_backward", .saved = {"y"}, .of = {{"x", "dx"}}},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}}};
    },
    .bench = {{"width-2048", {{"rows", 65536}, {"size", 2048}}},
              {"width-32768", {{"rows", 8192}, {"size", 32768}}},
              {"width-131072", {{"rows", 2048}, {"size", 131072}}}},
}};

const Register sparsemax_backward{Op{
    .name = "sparsemax_backward",
    .doc = "dx = dy - mean(dy) where y > 0, else 0",
    .internal = true,
    .inputs = {rows("dy"), rows("y"), mask("output_mask", 1)},
    .outputs = {{"dx", [](const Call&) { return like("y"); },
                 [](const Call& call) { return call["y"].dtype; }}},
    .check =
        [](const Call& call) {
          require_same_shape(call, "y", "dy");
          require_same_dtype(call, "y", "dy");
        },
    .kernels = {reread_kernel({.name = "SparsemaxBackward",
                               .source = "softmax/sparsemax.h",
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
                              {"y", "dy"}, "dx", 32)},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "dy", .shape = {e["rows"], e["size"]}},
              {.input = "y", .shape = {e["rows"], e["size"]}},
              {.input = "output_mask", .value = 1}};
    },
}};

}  // namespace
}  // namespace liger
