#include "engine/registry.h"
#include "ops/gradient_output.h"
#include "ops/linear_loss/linear_loss.h"
#include "ops/loss/cross_entropy.h"

namespace liger {
namespace {

Dtype loss_dtype(const Call& call) { return arithmetic(call["input"].dtype); }

void check_linear(const Call& call) {
  check_linear_layer(call, 2, "[tokens, hidden]");
  check_cross_entropy(call, call["input"].rows(), call["weight"].sizes[0], call["input"].dtype);
}

std::vector<Input> linear_inputs(bool with_num_items) {
  std::vector<Input> inputs = {dense("input"), dense("weight"), dense("target", {Dtype::i64}),
                               optional(dense("bias")), optional(dense("ce_weight"))};
  if (with_num_items) inputs.push_back(optional(dense("num_items", {Dtype::f32})));
  for (Input& option : cross_entropy_options()) {
    if (!with_num_items && option.name == "reduction") option.default_text = "0";
    inputs.push_back(std::move(option));
  }
  for (Input& option : division_options()) inputs.push_back(std::move(option));
  return inputs;
}

std::vector<Output> loss_outputs(Shape (*loss_shape)()) {
  return {{"loss", [loss_shape](const Call&) { return loss_shape(); }, loss_dtype},
          {"z_loss", [loss_shape](const Call&) { return loss_shape(); }, loss_dtype, false},
          {"token_accuracy",
           [](const Call& call) { return call.flag("want_accuracy") ? scalar() : empty(); },
           loss_dtype, false},
          {"predicted",
           [](const Call& call) {
             return call.flag("want_accuracy") || call.flag("want_predicted") ? rows_of("input")
                                                                              : empty();
           },
           [](const Call&) { return Dtype::i64; }, false}};
}

Shape one_each() { return rows_of("input"); }

std::vector<Sample> linear_example(const Extent& e) {
  return {{.input = "input", .shape = {e["rows"], e["inner"]}},
          {.input = "weight", .shape = {e["size"], e["inner"]}},
          {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
          {.input = "bias", .none = true},
          {.input = "ce_weight", .none = true}};
}

Op reduced_op() {
  Op op;
  op.name = "fused_linear_cross_entropy";
  op.doc =
      "cross entropy of input @ weight.T + bias, over chunks of tokens, so that the logits never "
      "exist as a whole; "
      "gradients are made in the forward";
  op.inputs = linear_inputs(true);
  Input asked = mask("with_gradient", 3);
  asked.default_text = "[False, False, False]";
  op.inputs.push_back(std::move(asked));
  op.outputs = loss_outputs(scalar);
  op.outputs.push_back(gradient_output("dinput", "input", "input", 0, "with_gradient"));
  op.outputs.push_back(gradient_output("dweight", "weight", "input", 1, "with_gradient"));
  op.outputs.push_back(gradient_output("dbias", "bias", "input", 2, "with_gradient"));
  op.check = [](const Call& call) {
    check_linear(call);
    if (reduction_of(call) == Reduction::none) {
      call.refuse("reduction", "is 0 (none)",
                  "1 (mean), 2 (sum); linear_cross_entropy_each gives one loss a token");
    }
  };
  op.gradient = {.of = {{"input", "dinput"}, {"weight", "dweight"}, {"bias", "dbias"}},
                 .needs_grad_flag = "with_gradient",
                 .unit = [](const Call& call) {
                   return gradient_unit(call["input"].dtype, reduction_of(call));
                 }};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"input", "weight", "bias"};
  op.example = [](const Extent& e) {
    auto samples = linear_example(e);
    samples.push_back({.input = "num_items", .none = true});
    return samples;
  };
  op.bench = {{"llama-8b", {{"rows", 8192}, {"size", 128256}, {"inner", 4096}}},
              {"qwen3-0.6b", {{"rows", 16384}, {"size", 151936}, {"inner", 1024}}},
              {"llama2-7b", {{"rows", 8192}, {"size", 32000}, {"inner", 4096}}}};
  return op;
}

void check_each(const Call& call) {
  check_linear(call);
  if (reduction_of(call) != Reduction::none)
    call.refuse("reduction", "asks for one number", "0 (none)");
}

Op each_op() {
  Op op;
  op.name = "linear_cross_entropy_each";
  op.doc =
      "as fused_linear_cross_entropy with one loss for each token; its backward makes the logits "
      "anew";
  op.inputs = linear_inputs(false);
  op.outputs = loss_outputs(one_each);
  op.check = check_each;
  op.gradient = {.backward = "linear_cross_entropy_each_backward",
                 .saved = {"input", "weight", "target", "bias", "ce_weight"},
                 .of = {{"input", "dinput"}, {"weight", "dweight"}, {"bias", "dbias"}}};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"input", "weight", "bias"};
  op.example = [](const Extent& e) {
    auto samples = linear_example(e);
    samples.push_back({.input = "reduction", .value = 0});
    return samples;
  };
  return op;
}

Op each_backward_op() {
  Op op;
  op.name = "linear_cross_entropy_each_backward";
  op.doc = "gradients of linear_cross_entropy_each for one factor a token";
  op.internal = true;
  op.inputs = {dense("dloss")};
  for (Input& input : linear_inputs(false)) op.inputs.push_back(std::move(input));
  op.inputs.push_back(mask("output_mask", 3));
  op.outputs = {gradient_output("dinput", "input", "input", 0),
                gradient_output("dweight", "weight", "input", 1),
                gradient_output("dbias", "bias", "input", 2)};
  op.check = check_each;
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = {{.input = "dloss", .shape = {e["rows"]}, .dtype = "arithmetic"}};
    for (Sample& sample : linear_example(e)) samples.push_back(std::move(sample));
    for (const auto& [name, value] :
         std::vector<std::pair<std::string, double>>{{"ignore_index", -100},
                                                     {"label_smoothing", 0},
                                                     {"lse_square_scale", 0},
                                                     {"softcap", 0},
                                                     {"reduction", 0},
                                                     {"token_scaling", 0},
                                                     {"want_accuracy", 0},
                                                     {"want_predicted", 0},
                                                     {"accumulate", 0},
                                                     {"chunk_tokens", 0},
                                                     {"exact", 0},
                                                     {"counted_tokens", -1},
                                                     {"output_mask", 7}}) {
      samples.push_back({.input = name, .value = value});
    }
    return samples;
  };
  return op;
}

const Register reduced{reduced_op()};
const Register each{each_op()};
const Register each_backward{each_backward_op()};

}  // namespace
}  // namespace liger
