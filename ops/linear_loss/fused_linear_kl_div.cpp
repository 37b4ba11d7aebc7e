#include "ops/linear_loss/fused_linear_kl_div.h"

#include "base/text.h"
#include "engine/registry.h"
#include "ops/gradient_output.h"
#include "ops/linear_loss/linear_loss.h"
#include "ops/loss/cross_entropy.h"
#include "ops/resident_rows.h"

namespace liger {
namespace {

double unit(const Call& call, std::string_view logits) {
  const bool sums = static_cast<KlDivReduction>(call.integer("reduction")) == KlDivReduction::sum;
  return gradient_unit(call[logits].dtype, sums ? Reduction::sum : Reduction::mean);
}

std::vector<Input> options() {
  return {choice("reduction", {"batchmean", "mean", "sum"}, "batchmean"),
          real("temperature", "1.0"), real("eps", "1e-10"), integer("ignore_index", -100)};
}

void check_options(const Call& call) {
  if (const double t = call.real("temperature"); !(t > 0.0))
    call.refuse("temperature", fmt::format("is {}", t), "a positive number");
  if (const double eps = call.real("eps"); !(eps >= 0.0))
    call.refuse("eps", fmt::format("is {}", eps), "0 or more");
}

Spec spec(const Call& call) {
  const RereadRows rows(call, {"logits", "probabilities"}, "", false);
  return {{"logits", call["logits"].dtype},
          {"classes", call["logits"].last_size()},
          {"align_bytes", rows.align_bytes()},
          {"tempered", call.real("temperature") != 1.0},
          {"has_labels", call.has("target")},
          {"with_gradient", call.flag("with_gradient")},
          {"unit", static_cast<int64_t>(unit(call, "logits"))},
          {"held", rows.resident()}};
}

Op chunk_op() {
  Op op;
  op.name = "linear_kl_div_chunk_";
  op.doc =
      "Kullback-Leibler divergence of each row of a chunk of logits from probabilities; the "
      "gradient overwrites the logits";
  op.internal = true;
  op.inputs = {
      written(rows("logits")), rows("probabilities"),  optional(dense("target", {Dtype::i64})),
      dense("share"),          written(dense("loss")), optional(dense("places", {Dtype::i64})),
      integer("first_row", 0)};
  for (Input& option : options()) op.inputs.push_back(std::move(option));
  op.inputs.push_back(flag("with_gradient"));
  op.check = [](const Call& call) {
    require_same_shape(call, "logits", "probabilities");
    require_same_dtype(call, "logits", "probabilities");
    check_options(call);
  };
  op.kernels = {reread_kernel({.name = "LinearKlDivRows",
                               .source = "loss/linear_kl_div.h",
                               .spec = spec,
                               .arguments = {"logits",
                                             "probabilities",
                                             {"labels", "target"},
                                             "share",
                                             "loss",
                                             {"fault", FaultOf{"target", "ignore_index", "places"}},
                                             {"rows", "logits.rows"},
                                             {"logits_stride", "logits.stride"},
                                             {"probabilities_stride", "probabilities.stride"},
                                             "first_row",
                                             "ignore_index",
                                             "eps",
                                             "temperature"}},
                              {"logits", "probabilities"}, "", 64, false)};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {{.input = "logits", .shape = {e["rows"], e["size"]}},
            {.input = "probabilities", .shape = {e["rows"], e["size"]}, .probabilities = true},
            {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
            {.input = "share", .shape = {}, .dtype = "arithmetic"},
            {.input = "loss", .shape = {e["rows"]}, .dtype = "arithmetic"},
            {.input = "first_row", .value = 0},
            {.input = "with_gradient", .value = 1}};
  };
  return op;
}

void check(const Call& call) {
  check_linear_layer(call, 2, "[tokens, hidden]");
  check_options(call);
  const int64_t tokens = call["input"].sizes[0], classes = call["weight"].sizes[0];
  const Tensor& given = call["probabilities"];
  if (given.dims != 2 || given.sizes[0] != tokens || given.sizes[1] != classes) {
    call.refuse("probabilities", "has shape " + shape_text(given),
                fmt::format("[{}, {}], one of each class for each token", tokens, classes));
  }
  if (call.has("target") && (call["target"].dims != 1 || call["target"].sizes[0] != tokens)) {
    call.refuse("target", "has shape " + shape_text(call["target"]),
                fmt::format("[{}], one label a token", tokens));
  }
}

Op kl_div() {
  Op op;
  op.name = "fused_linear_kl_div";
  op.doc =
      "Kullback-Leibler divergence of a linear layer from probabilities that are given, over "
      "chunks of tokens, so that the logits never exist as a whole; gradients are made in the "
      "forward";
  op.inputs = {dense("input"), dense("weight"), rows("probabilities"),
               optional(dense("target", {Dtype::i64})), optional(dense("bias"))};
  for (Input& option : options()) op.inputs.push_back(std::move(option));
  for (Input& option : division_options()) op.inputs.push_back(std::move(option));
  Input asked = mask("with_gradient", 3);
  asked.default_text = "[False, False, False]";
  op.inputs.push_back(std::move(asked));
  op.outputs = {{"loss", [](const Call&) { return scalar(); },
                 [](const Call& call) { return arithmetic(call["input"].dtype); }},
                gradient_output("dinput", "input", "input", 0, "with_gradient"),
                gradient_output("dweight", "weight", "input", 1, "with_gradient"),
                gradient_output("dbias", "bias", "input", 2, "with_gradient")};
  op.check = check;
  op.gradient = {.of = {{"input", "dinput"}, {"weight", "dweight"}, {"bias", "dbias"}},
                 .needs_grad_flag = "with_gradient",
                 .unit = [](const Call& call) { return unit(call, "input"); }};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"input", "weight", "bias"};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    const int64_t rows = e["rows"], classes = e["size"];
    return {{.input = "input", .shape = {rows, e["inner"]}},
            {.input = "weight", .shape = {classes, e["inner"]}},
            {.input = "probabilities", .shape = {rows, classes}, .probabilities = true},
            {.input = "target", .shape = {rows}, .dtype = "i64", .below = classes},
            {.input = "bias", .none = true}};
  };
  op.bench = {{"llama-1b", {{"rows", 4096}, {"size", 128256}, {"inner", 2048}}}};
  return op;
}

const Register chunk{chunk_op()};
const Register fused_linear_kl_div{kl_div()};

}  // namespace
}  // namespace liger
