#include "ops/linear_loss/fused_linear_dpo.h"

#include "engine/registry.h"
#include "ops/gradient_output.h"
#include "ops/linear_loss/linear_loss.h"
#include "ops/loss/cross_entropy.h"
#include "ops/loss/log_probs.h"

namespace liger {
namespace {

Dtype number_dtype(const Call& call) { return arithmetic(call["input"].dtype); }
Shape one(const Call&) { return scalar(); }
Shape one_a_pair(const Call&) { return sized({size_of("input", 0) / 2}); }

void check_reference(const Call& call) {
  const Tensor& input = call["input"];
  if (call.has("ref_log_probs")) {
    const Tensor& given = call["ref_log_probs"];
    if (given.dims != 1 || given.sizes[0] != input.sizes[0] || given.dtype != number_dtype(call)) {
      call.refuse("ref_log_probs", "has shape " + shape_text(given),
                  "[" + std::to_string(input.sizes[0]) + "] " +
                      std::string(name_of(number_dtype(call))) + ", one number a sequence");
    }
    if (call.has("ref_input"))
      call.refuse("ref_input", "is given beside ref_log_probs", "one of the two");
  }
  if (call.has("ref_input") != call.has("ref_weight")) {
    call.refuse(call.has("ref_input") ? "ref_weight" : "ref_input", "is None",
                "both of a reference model, or none");
  }
  if (!call.has("ref_input")) {
    if (call.has("ref_bias")) call.refuse("ref_bias", "is given alone", "with ref_weight");
    return;
  }
  const Tensor& states = call["ref_input"];
  const Tensor& weight = call["ref_weight"];
  require_dims(call, "ref_input", 3, "[2 pairs, tokens, hidden]");
  require_same_dtype(call, "ref_input", "ref_weight");
  require_same_dtype(call, "ref_input", "ref_bias");
  require_same_arithmetic(call, "input", "ref_input");
  if (states.sizes[0] != input.sizes[0] || states.sizes[1] != input.sizes[1])
    call.refuse("ref_input", "has shape " + shape_text(states), "the sequences of 'input'");
  if (weight.dims != 2 || weight.sizes[0] != call["weight"].sizes[0] ||
      weight.last_size() != states.last_size()) {
    call.refuse("ref_weight", "has shape " + shape_text(weight),
                "[" + std::to_string(call["weight"].sizes[0]) + ", " +
                    std::to_string(states.last_size()) + "]");
  }
  if (call.has("ref_bias") &&
      (call["ref_bias"].dims != 1 || call["ref_bias"].sizes[0] != weight.sizes[0])) {
    call.refuse("ref_bias", "has shape " + shape_text(call["ref_bias"]),
                "[" + std::to_string(weight.sizes[0]) + "]");
  }
}

void check(const Call& call) {
  check_linear_layer(call, 3, "[2 pairs, tokens, hidden]");
  const Tensor& input = call["input"];
  if (input.sizes[0] % 2 != 0) {
    call.refuse("input", "has shape " + shape_text(input),
                "an even number of sequences: the chosen ones, then the rejected");
  }
  const Tensor& ids = call["ids"];
  if (ids.dims != 2 || ids.sizes[0] != input.sizes[0] || ids.sizes[1] != input.sizes[1]) {
    call.refuse("ids", "has shape " + shape_text(ids),
                "[" + std::to_string(input.sizes[0]) + ", " + std::to_string(input.sizes[1]) +
                    "], one id a token");
  }
  check_reference(call);
  check_scores(call);
  const double smoothing = call.real("label_smoothing");
  const std::string found = "is " + std::to_string(smoothing);
  if (static_cast<DpoLoss>(call.integer("loss_type")) == DpoLoss::exo_pair) {
    if (!(smoothing > 0.0 && smoothing < 1.0))
      call.refuse("label_smoothing", found, "above 0 and below 1 for exo_pair");
  } else if (!(smoothing >= 0.0 && smoothing < 0.5)) {
    call.refuse("label_smoothing", found, "0 to less than 0.5");
  }
  for (const std::string_view name : {"beta", "discopop_tau"}) {
    if (const double value = call.real(name); !(value > 0.0))
      call.refuse(name, "is " + std::to_string(value), "a positive number");
  }
}

Op dpo() {
  Op op;
  op.name = "fused_linear_dpo";
  op.doc =
      "direct preference optimisation of a linear layer over pairs of sequences, the chosen ones "
      "first; over chunks of pairs, so that the logits never exist as a whole; gradients are made "
      "in the forward";
  op.inputs = {dense("input"),
               dense("weight"),
               dense("ids", {Dtype::i64}),
               optional(dense("bias")),
               optional(dense("ref_input")),
               optional(dense("ref_weight")),
               optional(dense("ref_bias")),
               optional(dense("ref_log_probs")),
               choice("loss_type",
                      {"sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair",
                       "sppo_hard", "apo_zero", "apo_down", "discopop"},
                      "sigmoid"),
               real("beta", "0.1"),
               real("label_smoothing", "0.0"),
               real("discopop_tau", "0.05"),
               flag("average_log_prob"),
               flag("compute_nll_loss"),
               real("alpha", "1.0")};
  for (Input& option : score_options()) op.inputs.push_back(std::move(option));
  for (Input& option : division_options()) op.inputs.push_back(std::move(option));
  Input asked = mask("with_gradient", 3);
  asked.default_text = "[False, False, False]";
  op.inputs.push_back(std::move(asked));
  op.outputs = {{"loss", one, number_dtype},
                {"chosen_logps", one_a_pair, number_dtype, false},
                {"rejected_logps", one_a_pair, number_dtype, false},
                {"chosen_logits_mean", one, number_dtype, false},
                {"rejected_logits_mean", one, number_dtype, false},
                {"nll_loss", one, number_dtype, false},
                {"chosen_rewards", one_a_pair, number_dtype, false},
                {"rejected_rewards", one_a_pair, number_dtype, false},
                gradient_output("dinput", "input", "input", 0, "with_gradient"),
                gradient_output("dweight", "weight", "input", 1, "with_gradient"),
                gradient_output("dbias", "bias", "input", 2, "with_gradient")};
  op.check = check;
  op.gradient = {
      .of = {{"input", "dinput"}, {"weight", "dweight"}, {"bias", "dbias"}},
      .needs_grad_flag = "with_gradient",
      .unit = [](const Call& call) { return gradient_unit(call["input"].dtype, Reduction::mean); }};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"input", "weight", "bias", "ref_input", "ref_weight", "ref_bias"};
  op.sizes = example_sizes({{"sequences", 4, "sequences, two a pair"}});
  op.example = [](const Extent& e) -> std::vector<Sample> {
    const int64_t sequences = e["sequences"], tokens = e["rows"], hidden = e["inner"];
    return {{.input = "input", .shape = {sequences, tokens, hidden}},
            {.input = "weight", .shape = {e["size"], hidden}},
            {.input = "ids", .shape = {sequences, tokens}, .dtype = "i64", .below = e["size"]},
            {.input = "bias", .none = true},
            {.input = "ref_input", .shape = {sequences, tokens, hidden}},
            {.input = "ref_weight", .shape = {e["size"], hidden}},
            {.input = "ref_bias", .none = true},
            {.input = "ref_log_probs", .none = true}};
  };
  op.bench = {{"llama-1b", {{"sequences", 8}, {"rows", 1024}, {"size", 128256}, {"inner", 2048}}}};
  return op;
}

const Register fused_linear_dpo{dpo()};

}  // namespace
}  // namespace liger
