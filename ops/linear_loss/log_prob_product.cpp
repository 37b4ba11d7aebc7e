#include "ops/linear_loss/log_prob_product.h"

#include "base/text.h"
#include "engine/registry.h"
#include "ops/linear_loss/tile_product.h"
#include "ops/loss/log_probs.h"

namespace liger {

namespace {

void check_temperature(const Call& call) {
  check_tile_rows(call);
  if (const double t = call.real("temperature"); !(t > 0.0))
    call.refuse("temperature", fmt::format("is {}", t), "a positive number");
}

Sample statistics_sample(const TileSizes& sizes) {
  return {.input = "statistics", .shape = {sizes.rows * log_prob_statistics}, .dtype = "f32"};
}

Op product_op() {
  Op op;
  op.name = "log_prob_product_";
  op.doc =
      "of the logits input @ weight.T, of each row and tile of columns the largest, the sum of "
      "exponentials and what an entropy is made of; the logits are kept where there is room";
  op.internal = true;
  op.inputs = {bf16_rows("input"),
               dense("weight", {Dtype::bf16}),
               written(float_rows("maxima")),
               written(float_rows("sums")),
               optional(written(float_rows("weighted"))),
               optional(written(bf16_rows("logits"))),
               real("temperature", "1.0")};
  op.check = check_temperature;
  op.kernels = {
      tile_kernel({.name = "LogProbProduct", .source = "linear_loss/log_prob_product.h"}, "logits",
                  {"maxima", "sums", "weighted", {"sums_stride", "sums.stride"}, "temperature"},
                  [](const Call& call) -> Spec {
                    return {{"entropy", call.has("weighted")}};
                  })};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    const TileSizes sizes(e);
    return {sizes.input(),
            sizes.weight(),
            sizes.of_tiles("maxima"),
            sizes.of_tiles("sums"),
            sizes.of_tiles("weighted"),
            sizes.of_classes("logits")};
  };
  return op;
}

Op tiles_op() {
  Op op;
  op.name = "log_prob_tiles_";
  op.doc =
      "from a product's numbers of tiles the log-probability and the entropy of each row, or "
      "without ids its statistics alone";
  op.internal = true;
  op.inputs = {bf16_rows("input"),
               optional(integers("ids")),
               optional(floats("score")),
               optional(bf16_rows("logits")),
               float_rows("maxima"),
               float_rows("sums"),
               optional(float_rows("weighted")),
               optional(written(floats("log_probs"))),
               optional(written(floats("entropy"))),
               optional(written(floats("statistics"))),
               integer("classes", 1),
               real("temperature", "1.0"),
               integer("ignore_index", -100)};
  op.check = [](const Call& call) {
    check_temperature(call);
    const std::string_view made = call.has("ids") ? "log_probs" : "statistics";
    if (!call.has(made)) call.refuse(made, "is None", "what the sums are made into");
  };
  op.kernels = {{.name = "LogProbTiles",
                 .source = "linear_loss/log_prob_product.h",
                 .spec = [](const Call& call) -> Spec {
                   return {{"classes", call.integer("classes")},
                           {"tiles", tiles_across(call.integer("classes"))},
                           {"has_ids", call.has("ids")},
                           {"entropy", call.has("entropy")},
                           {"keeps", call.has("statistics")},
                           {"stored", call.has("logits")}};
                 },
                 .candidates = single_row_knobs,
                 .blocks = blocks_of_rows,
                 .arguments = {"ids",
                               "score",
                               "logits",
                               "maxima",
                               "sums",
                               "weighted",
                               "log_probs",
                               "entropy",
                               "statistics",
                               {"rows", "input.rows"},
                               {"logits_stride", "logits.stride"},
                               {"sums_stride", "sums.stride"},
                               "ignore_index",
                               "temperature"}}};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    const TileSizes sizes(e);
    return {sizes.input(),
            sizes.labels("ids"),
            sizes.of_rows("score"),
            {.input = "logits", .none = true},
            sizes.of_tiles("maxima"),
            sizes.of_tiles("sums"),
            sizes.of_tiles("weighted"),
            sizes.of_rows("log_probs"),
            sizes.of_rows("entropy"),
            statistics_sample(sizes),
            {.input = "classes", .value = static_cast<double>(sizes.classes)}};
  };
  return op;
}

Op gradient_op() {
  Op op;
  op.name = "log_prob_product_gradient_";
  op.doc =
      "the gradient of log-probabilities and entropies with respect to the logits input @ "
      "weight.T, whose statistics are known";
  op.internal = true;
  op.inputs = {bf16_rows("input"),
               dense("weight", {Dtype::bf16}),
               integers("ids"),
               floats("statistics"),
               floats("dlog_probs"),
               optional(floats("dentropy")),
               written(bf16_rows("dlogits")),
               real("temperature", "1.0"),
               integer("ignore_index", -100)};
  op.check = check_temperature;
  op.kernels = {tile_kernel(
      {.name = "LogProbProductGradient", .source = "linear_loss/log_prob_product.h"}, "dlogits",
      {"ids", "statistics", "dlog_probs", "dentropy", "ignore_index", "temperature"},
      [](const Call& call) -> Spec {
        return {{"entropy", call.has("dentropy")}};
      })};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    const TileSizes sizes(e);
    return {sizes.input(),
            sizes.weight(),
            sizes.labels("ids"),
            statistics_sample(sizes),
            sizes.of_rows("dlog_probs"),
            sizes.of_rows("dentropy"),
            sizes.of_classes("dlogits")};
  };
  return op;
}

const Register product{product_op()};
const Register tiles{tiles_op()};
const Register gradient{gradient_op()};

}  // namespace

bool log_prob_product_pays(const Place& place, int64_t tokens, int64_t hidden, int64_t classes) {
  return classes % 8 == 0 && tile_product_pays(place, tokens, hidden, classes);
}

}  // namespace liger
