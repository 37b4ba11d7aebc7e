#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

Shape shape_of_x(const Call&) { return like("x"); }
Dtype dtype_of_x(const Call& call) { return call["x"].dtype; }

KernelOf kernel(std::string name, std::vector<Argument> arguments) {
  return {
      .name = std::move(name),
      .source = "mlp/relu_squared.h",
      .spec = [](const Call& call) -> Spec {
        return {{"x", dtype_of_x(call)},
                {"width", call["x"].last_size()},
                {"align_bytes", int64_t{call.align_bytes()}}};
      },
      .candidates = [](const Call& call) { return row_candidates(call, call["x"].last_size(), 0); },
      .blocks = [](const Call& call,
                   const Knobs& knobs) { return row_blocks(call["x"].rows(), knobs); },
      .arguments = std::move(arguments)};
}

const Register relu_squared{Op{
    .name = "relu_squared",
    .doc = "y = max(x, 0)^2",
    .inputs = {rows("x")},
    .outputs = {{"y", shape_of_x, dtype_of_x}},
    .kernels = {kernel("ReluSquaredForward",
                       {"x", "y", {"rows", "x.rows"}, {"x_stride", "x.stride"}})},
    .gradient = {.backward = "relu_squared_backward", .saved = {"x"}, .of = {{"x", "dx"}}},
    .sharding = Sharding::elements,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}}};
    },
    .bench = {{"width-14336", {{"rows", 8192}, {"size", 14336}}},
              {"width-24576", {{"rows", 8192}, {"size", 24576}}}},
}};

const Register relu_squared_backward{Op{
    .name = "relu_squared_backward",
    .doc = "dx = 2 * max(x, 0) * dy",
    .internal = true,
    .inputs = {rows("dy"), rows("x"), mask("output_mask", 1)},
    .outputs = {{"dx", shape_of_x, dtype_of_x}},
    .check =
        [](const Call& call) {
          require_same_shape(call, "x", "dy");
          require_same_dtype(call, "x", "dy");
        },
    .kernels = {kernel("ReluSquaredBackward", {"dy",
                                               "x",
                                               "dx",
                                               {"rows", "x.rows"},
                                               {"dy_stride", "dy.stride"},
                                               {"x_stride", "x.stride"}})},
    .sharding = Sharding::elements,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "dy", .shape = {e["rows"], e["size"]}},
              {.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "output_mask", .value = 1}};
    },
}};

}  // namespace
}  // namespace liger
