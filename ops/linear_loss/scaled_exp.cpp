// Parts of the fused linear cross entropy that reads no logits: templates/linear_loss/scaled_exp.h.
#include "ops/linear_loss/scaled_exp.h"

#include "engine/registry.h"
#include "ops/linear_loss/tile_product.h"
#include "ops/row_knobs.h"

namespace liger {

namespace {

// The op's label has the name that the composite's caller knows: a fault is told of that.
Op reference_op(std::string name, const std::string& label) {
  Op op;
  op.name = std::move(name);
  op.doc =
      "the label's score of each token, input[t] . weight[label[t]], and what exponentials "
      "refer to";
  op.internal = true;
  op.inputs = {
      bf16_rows("input"),           dense("weight", {Dtype::bf16}), integers(label),
      written(floats("score")),     written(floats("reference")),   optional(integers("places")),
      integer("ignore_index", -100)};
  op.check = check_tile_rows;
  op.kernels = {
      {.name = "LinearReference",
       .source = "linear_loss/scaled_exp.h",
       .spec = [](const Call& call) -> Spec {
         return {{"hidden", call["input"].last_size()}, {"classes", call["weight"].sizes[0]}};
       },
       .candidates = single_row_knobs,
       .blocks = blocks_of_rows,
       .arguments = {"input",
                     "weight",
                     {"target", label.c_str()},
                     "score",
                     "reference",
                     {"fault", FaultOf{label, "ignore_index", "places"}},
                     {"rows", "input.rows"},
                     {"input_stride", "input.stride"},
                     "ignore_index"}}};
  op.example = [label](const Extent& e) -> std::vector<Sample> {
    const TileSizes sizes(e);
    return {sizes.input(), sizes.weight(), sizes.labels(label), sizes.of_rows("score"),
            sizes.of_rows("reference")};
  };
  return op;
}

const Register reference{reference_op("linear_reference_", "target")};
const Register reference_of_ids{reference_op("linear_reference_of_ids_", "ids")};

const Register product{Op{
    .name = "scaled_exp_",
    .doc = "exp(input @ weight.T - reference), and of each row and tile of columns the sum of that "
           "and the largest logit",
    .internal = true,
    .inputs = {bf16_rows("input"), dense("weight", {Dtype::bf16}), floats("reference"),
               optional(written(bf16_rows("exponentials"))), written(float_rows("sums")),
               written(float_rows("maxima")), optional(integers("wanted"))},
    .check = check_tile_rows,
    .kernels = {tile_kernel(
        {.name = "ScaledExp", .source = "linear_loss/scaled_exp.h"}, "exponentials",
        {"reference", "sums", "maxima", "wanted", {"sums_stride", "sums.stride"}})},
    .example = [](const Extent& e) -> std::vector<Sample> {
      const TileSizes sizes(e);
      return {sizes.input(),
              sizes.weight(),
              sizes.of_rows("reference"),
              sizes.of_classes("exponentials"),
              sizes.of_tiles("sums"),
              sizes.of_tiles("maxima"),
              {.input = "wanted", .none = true}};
    },
}};

const Register rows_of_product{Op{
    .name = "scaled_exp_rows_",
    .doc = "from a product's sums the loss of each row, and what makes its gradients of products",
    .internal = true,
    .inputs = {bf16_rows("input"), integers("target"), floats("score"), float_rows("sums"),
               float_rows("maxima"), optional(floats("totals")), written(floats("reference")),
               optional(written(bf16_rows("exponentials"))), written(floats("row_loss")),
               written(floats("row_z_loss")), optional(written(floats("factor"))),
               optional(written(dense("scaled_input", {Dtype::bf16}))), written(integers("wanted")),
               integer("classes", 1), integer("ignore_index", -100), flag("again")},
    .check = check_tile_rows,
    .kernels = {{.name = "ScaledExpRows",
                 .source = "linear_loss/scaled_exp.h",
                 .spec = [](const Call& call) -> Spec {
                   return {{"hidden", call["input"].last_size()},
                           {"classes", call.integer("classes")},
                           {"tiles", tiles_across(call.integer("classes"))},
                           {"with_gradient", call.has("exponentials")},
                           {"hold", holds(call, "input", 1)}};
                 },
                 .candidates = single_row_knobs,
                 .blocks = blocks_of_rows,
                 .arguments = {"input",
                               "target",
                               "score",
                               "sums",
                               "maxima",
                               {"loss_scale", "totals"},
                               "reference",
                               "exponentials",
                               "row_loss",
                               "row_z_loss",
                               "factor",
                               "scaled_input",
                               "wanted",
                               {"rows", "input.rows"},
                               {"input_stride", "input.stride"},
                               {"sums_stride", "sums.stride"},
                               {"exponentials_stride", "exponentials.stride"},
                               "ignore_index",
                               "again"}}},
    .example = [](const Extent& e) -> std::vector<Sample> {
      const TileSizes sizes(e);
      return {sizes.input(),
              sizes.labels("target"),
              sizes.of_rows("score"),
              sizes.of_tiles("sums"),
              sizes.of_tiles("maxima"),
              {.input = "totals", .shape = {3}, .dtype = "f32"},
              sizes.of_rows("reference"),
              sizes.of_classes("exponentials"),
              sizes.of_rows("row_loss"),
              sizes.of_rows("row_z_loss"),
              sizes.of_rows("factor"),
              {.input = "scaled_input", .shape = {sizes.rows, sizes.hidden}, .dtype = "bf16"},
              {.input = "wanted", .shape = {1}, .dtype = "i64", .below = 1},
              {.input = "classes", .value = static_cast<double>(sizes.classes)}};
    },
}};

}  // namespace

bool scaled_exp_pay(const Place& place, int64_t tokens, int64_t hidden, int64_t classes) {
  // Below, reading and writing rows of the input costs as much as the logits would.
  constexpr int64_t least_classes_of_hidden = 16;
  return classes >= least_classes_of_hidden * hidden &&
         tile_product_pays(place, tokens, hidden, classes);
}

}  // namespace liger
