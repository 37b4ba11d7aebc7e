#include "ops/linear_loss/sequence_loss.h"

#include <algorithm>

#include "base/text.h"
#include "ops/gradient_output.h"
#include "ops/linear_loss/linear_loss.h"
#include "ops/loss/cross_entropy.h"
#include "ops/loss/log_probs.h"

namespace liger {
namespace {

Dtype number_dtype(const Call& call) { return arithmetic(call["input"].dtype); }

void append(std::vector<Input>& all, std::vector<Input> more) {
  for (Input& input : more) all.push_back(std::move(input));
}

// Of the layer that is trained and of the reference's, what autocast lowers.
std::vector<std::string> layers_of(const std::vector<Input>& inputs) {
  std::vector<std::string> found;
  for (const char* const name :
       {"input", "weight", "bias", "ref_input", "ref_weight", "ref_bias"}) {
    const auto is_named = [&](const Input& input) { return input.name == name; };
    if (std::any_of(inputs.begin(), inputs.end(), is_named)) found.emplace_back(name);
  }
  return found;
}

void check_reference_log_probs(const Call& call) {
  const int64_t sequences = call["input"].sizes[0];
  const Tensor& given = call["ref_log_probs"];
  if (given.dims != 1 || given.sizes[0] != sequences || given.dtype != number_dtype(call)) {
    call.refuse("ref_log_probs", "has shape " + shape_text(given),
                fmt::format("[{}] {}, one number a sequence", sequences,
                            std::string(name_of(number_dtype(call)))));
  }
  if (call.has("ref_input"))
    call.refuse("ref_input", "is given beside ref_log_probs", "one of the two");
}

}  // namespace

Op sequence_loss(std::string name, std::string doc, std::vector<Input> own,
                 std::vector<Output> metrics) {
  Op op;
  op.name = std::move(name);
  op.doc = std::move(doc);
  op.inputs = {dense("input"), dense("weight"), dense("ids", {Dtype::i64}),
               optional(dense("bias"))};
  append(op.inputs, std::move(own));
  append(op.inputs, score_options());
  append(op.inputs, division_options());
  Input asked = mask("with_gradient", 3);
  asked.default_text = "[False, False, False]";
  op.inputs.push_back(std::move(asked));
  op.outputs = {number("loss")};
  op.outputs[0].differentiable = true;
  for (Output& metric : metrics) op.outputs.push_back(std::move(metric));
  op.outputs.push_back(gradient_output("dinput", "input", "input", 0, "with_gradient"));
  op.outputs.push_back(gradient_output("dweight", "weight", "input", 1, "with_gradient"));
  op.outputs.push_back(gradient_output("dbias", "bias", "input", 2, "with_gradient"));
  op.gradient = {
      .of = {{"input", "dinput"}, {"weight", "dweight"}, {"bias", "dbias"}},
      .needs_grad_flag = "with_gradient",
      .unit = [](const Call& call) { return gradient_unit(call["input"].dtype, Reduction::mean); }};
  op.autocast = Autocast::lower;
  op.autocast_inputs = layers_of(op.inputs);
  op.sizes = example_sizes({{"sequences", 4, "sequences, two a pair where they are paired"}});
  op.example = sequence_samples;
  // A quarter of each sequence is its prompt.
  op.bench = {{.name = "llama-1b",
               .extent = {{"sequences", 8}, {"rows", 1024}, {"size", 128256}, {"inner", 2048}},
               .ignored_first = 0.25}};
  return op;
}

Output number(std::string name) {
  return {std::move(name), [](const Call&) { return scalar(); }, number_dtype, false};
}
std::vector<Output> pair_metrics() {
  const auto a_pair = [](const Call&) { return sized({size_of("input", 0) / 2}); };
  return {{"chosen_logps", a_pair, number_dtype, false},
          {"rejected_logps", a_pair, number_dtype, false},
          number("chosen_logits_mean"),
          number("rejected_logits_mean"),
          number("nll_loss"),
          {"chosen_rewards", a_pair, number_dtype, false},
          {"rejected_rewards", a_pair, number_dtype, false}};
}

void check_sequences(const Call& call, std::string_view shape) {
  check_linear_layer(call, 3, shape);
  const Tensor& input = call["input"];
  const Tensor& ids = call["ids"];
  if (ids.dims != 2 || ids.sizes[0] != input.sizes[0] || ids.sizes[1] != input.sizes[1]) {
    call.refuse("ids", "has shape " + shape_text(ids),
                fmt::format("[{}, {}], one id a token", input.sizes[0], input.sizes[1]));
  }
  check_scores(call);
}

void check_pairs(const Call& call) {
  const Tensor& input = call["input"];
  if (input.dims == 3 && input.sizes[0] % 2 != 0) {
    call.refuse("input", "has shape " + shape_text(input),
                "an even number of sequences: the chosen ones, then the rejected");
  }
  check_sequences(call, "[2 pairs, tokens, hidden]");
}

std::vector<Input> reference_inputs() {
  return {optional(dense("ref_input")), optional(dense("ref_weight")), optional(dense("ref_bias")),
          optional(dense("ref_log_probs"))};
}

void check_reference(const Call& call) {
  const Tensor& input = call["input"];
  if (call.has("ref_log_probs")) check_reference_log_probs(call);
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
  require_dims(call, "ref_input", 3, "[sequences, tokens, hidden]");
  require_same_dtype(call, "ref_input", "ref_weight");
  require_same_dtype(call, "ref_input", "ref_bias");
  require_same_arithmetic(call, "input", "ref_input");
  if (states.sizes[0] != input.sizes[0] || states.sizes[1] != input.sizes[1])
    call.refuse("ref_input", "has shape " + shape_text(states), "the sequences of 'input'");
  if (weight.dims != 2 || weight.sizes[0] != call["weight"].sizes[0] ||
      weight.last_size() != states.last_size()) {
    call.refuse("ref_weight", "has shape " + shape_text(weight),
                fmt::format("[{}, {}]", call["weight"].sizes[0], states.last_size()));
  }
  if (call.has("ref_bias") &&
      (call["ref_bias"].dims != 1 || call["ref_bias"].sizes[0] != weight.sizes[0])) {
    call.refuse("ref_bias", "has shape " + shape_text(call["ref_bias"]),
                fmt::format("[{}]", weight.sizes[0]));
  }
}

void require_positive(const Call& call, std::string_view option) {
  if (const double value = call.real(option); !(value > 0.0))
    call.refuse(option, "is " + std::to_string(value), "a positive number");
}
void require_share(const Call& call, std::string_view option) {
  if (const double value = call.real(option); !(value >= 0.0 && value <= 1.0))
    call.refuse(option, "is " + std::to_string(value), "0 to 1");
}

std::vector<Sample> sequence_samples(const Extent& e) {
  const int64_t sequences = e["sequences"], tokens = e["rows"], hidden = e["inner"];
  return {{.input = "input", .shape = {sequences, tokens, hidden}},
          {.input = "weight", .shape = {e["size"], hidden}},
          {.input = "ids", .shape = {sequences, tokens}, .dtype = "i64", .below = e["size"]},
          {.input = "bias", .none = true}};
}

std::vector<Sample> reference_samples(const Extent& e) {
  return {{.input = "ref_input", .shape = {e["sequences"], e["rows"], e["inner"]}},
          {.input = "ref_weight", .shape = {e["size"], e["inner"]}},
          {.input = "ref_bias", .none = true},
          {.input = "ref_log_probs", .none = true}};
}

}  // namespace liger
