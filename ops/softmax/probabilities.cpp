#include "ops/softmax/probabilities.h"

#include "ops/resident_rows.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

Output like_it(std::string name, std::string of) {
  return {std::move(name), [of](const Call&) { return like(of); },
          [of](const Call& call) { return call[of].dtype; }};
}

Spec spec_of(const Call& call, std::string_view x, const RereadRows& rows) {
  return {{"x", call[x].dtype},
          {"width", call[x].last_size()},
          {"align_bytes", rows.align_bytes()},
          {"held", rows.resident()}};
}

}  // namespace

Op forward_of(const Probabilities& of) {
  const bool may_keep = of.forward_may_keep;
  Op op;
  op.name = of.name;
  op.doc = of.doc;
  op.inputs = {rows("x")};
  op.outputs = {like_it("y", "x")};
  op.kernels = {
      reread_kernel({.name = of.kernels + "Forward",
                     .source = "softmax/" + of.name + ".h",
                     .spec =
                         [may_keep](const Call& call) {
                           return spec_of(call, "x", RereadRows(call, {"x"}, "y", may_keep));
                         },
                     .arguments = {"x", "y", {"rows", "x.rows"}, {"x_stride", "x.stride"}}},
                    {"x"}, "y", of.fewest_threads, may_keep)};
  op.gradient = {.backward = of.name + "_backward", .saved = {"y"}, .of = {{"x", "dx"}}};
  op.sharding = Sharding::rows;
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {{.input = "x", .shape = {e["rows"], e["size"]}}};
  };
  op.bench = {{"width-2048", {{"rows", 65536}, {"size", 2048}}},
              {"width-32768", {{"rows", 8192}, {"size", 32768}}},
              {"width-131072", {{"rows", 2048}, {"size", 131072}}}};
  return op;
}

Op backward_of(const Probabilities& of) {
  Op op;
  op.name = of.name + "_backward";
  op.doc = of.backward_doc;
  op.internal = true;
  op.inputs = {rows("dy"), rows("y"), mask("output_mask", 1)};
  op.outputs = {like_it("dx", "y")};
  op.check = [](const Call& call) {
    require_same_shape(call, "y", "dy");
    require_same_dtype(call, "y", "dy");
  };
  op.kernels = {reread_kernel({.name = of.kernels + "Backward",
                               .source = "softmax/" + of.name + ".h",
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
                              {"y", "dy"}, "dx", of.fewest_threads)};
  op.sharding = Sharding::rows;
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {{.input = "dy", .shape = {e["rows"], e["size"]}},
            {.input = "y", .shape = {e["rows"], e["size"]}},
            {.input = "output_mask", .value = 1}};
  };
  return op;
}

}  // namespace liger
