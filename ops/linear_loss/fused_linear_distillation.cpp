#include "base/text.h"
#include "engine/registry.h"
#include "ops/gradient_output.h"
#include "ops/linear_loss/distillation.h"
#include "ops/linear_loss/linear_loss.h"
#include "ops/loss/cross_entropy.h"

namespace liger {
namespace {

Dtype number_dtype(const Call& call) { return arithmetic(call["input"].dtype); }
Shape one(const Call&) { return scalar(); }

void check_teacher(const Call& call) {
  require_dims(call, "teacher_input", 2, "[tokens, hidden]");
  require_same_dtype(call, "input", "teacher_input");
  require_same_dtype(call, "input", "teacher_weight");
  require_same_dtype(call, "input", "teacher_bias");
  const Tensor& states = call["teacher_input"];
  const Tensor& weight = call["teacher_weight"];
  const int64_t classes = call["weight"].sizes[0];
  if (states.sizes[0] != call["input"].sizes[0]) {
    call.refuse("teacher_input", "has shape " + shape_text(states),
                fmt::format("[{}, hidden], the tokens of 'input'", call["input"].sizes[0]));
  }
  if (weight.dims != 2 || weight.sizes[0] != classes || weight.last_size() != states.last_size()) {
    call.refuse("teacher_weight", "has shape " + shape_text(weight),
                fmt::format("[{}, {}], the classes of 'weight' and the hidden size of "
                            "'teacher_input'",
                            classes, states.last_size()));
  }
  if (call.has("teacher_bias") &&
      (call["teacher_bias"].dims != 1 || call["teacher_bias"].sizes[0] != classes)) {
    call.refuse("teacher_bias", "has shape " + shape_text(call["teacher_bias"]),
                fmt::format("[{}]", classes));
  }
}

void check(const Call& call) {
  check_linear_layer(call, 2, "[tokens, hidden]");
  check_teacher(call);
  check_distillation(call);
  const bool hard = call.flag("want_hard_loss") || call.real("weight_hard_loss") != 0.0;
  if (!call.has("target")) {
    // Labels of no token count as none.
    if (hard && call["input"].sizes[0] > 0)
      call.refuse("target", "is None", "labels, or a weight_hard_loss of 0");
  } else if (call["target"].dims != 1 || call["target"].count() != call["input"].sizes[0]) {
    call.refuse("target", "has shape " + shape_text(call["target"]),
                fmt::format("[{}], one label a token", call["input"].sizes[0]));
  }
}

Op distillation() {
  Op op;
  op.name = "fused_linear_distillation";
  op.doc =
      "distillation of a linear layer from a teacher's, over chunks of tokens, so that the logits "
      "never exist as a whole; gradients are made in the forward";
  op.inputs = {dense("input"),
               dense("weight"),
               dense("teacher_input"),
               dense("teacher_weight"),
               optional(dense("target", {Dtype::i64})),
               optional(dense("bias")),
               optional(dense("teacher_bias"))};
  for (Input& option : distillation_options()) op.inputs.push_back(std::move(option));
  op.inputs.push_back(flag("want_hard_loss"));
  for (Input& option : division_options()) op.inputs.push_back(std::move(option));
  Input asked = mask("with_gradient", 3);
  asked.default_text = "[False, False, False]";
  op.inputs.push_back(std::move(asked));
  op.outputs = {{"loss", one, number_dtype},
                {"soft_loss", one, number_dtype, false},
                {"hard_loss", one, number_dtype, false},
                gradient_output("dinput", "input", "input", 0, "with_gradient"),
                gradient_output("dweight", "weight", "input", 1, "with_gradient"),
                gradient_output("dbias", "bias", "input", 2, "with_gradient")};
  op.check = check;
  op.gradient = {
      .of = {{"input", "dinput"}, {"weight", "dweight"}, {"bias", "dbias"}},
      .needs_grad_flag = "with_gradient",
      .unit = [](const Call& call) { return gradient_unit(call["input"].dtype, Reduction::mean); }};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"input",         "weight",         "bias",
                        "teacher_input", "teacher_weight", "teacher_bias"};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    const int64_t rows = e["rows"], classes = e["size"], hidden = e["inner"];
    return {{.input = "input", .shape = {rows, hidden}},
            {.input = "weight", .shape = {classes, hidden}},
            {.input = "teacher_input", .shape = {rows, 2 * hidden}},
            {.input = "teacher_weight", .shape = {classes, 2 * hidden}},
            {.input = "target", .shape = {rows}, .dtype = "i64", .below = classes},
            {.input = "bias", .none = true},
            {.input = "teacher_bias", .none = true}};
  };
  const Extent llama = {{"rows", 4096}, {"size", 128256}, {"inner", 2048}};
  const auto alone = [&](const char* divergence) -> BenchCase {
    return {.name = std::string("llama-1b, ") + divergence + " alone",
            .extent = llama,
            .options = {{"divergence", divergence}, {"weight_hard_loss", 0.0}}};
  };
  op.bench = {{"llama-1b", llama}, alone("jsd"), alone("kl")};
  return op;
}

const Register fused_linear_distillation{distillation()};

}  // namespace
}  // namespace liger
