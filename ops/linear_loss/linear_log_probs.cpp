#include "engine/registry.h"
#include "ops/gradient_output.h"
#include "ops/linear_loss/linear_loss.h"
#include "ops/loss/log_probs.h"

namespace liger {
namespace {

Dtype number_dtype(const Call& call) { return arithmetic(call["input"].dtype); }
Shape one_each(const Call&) { return rows_of("input"); }

std::vector<Input> with_options(std::vector<Input> inputs) {
  for (Input& option : score_options()) inputs.push_back(std::move(option));
  for (Input& option : division_options()) inputs.push_back(std::move(option));
  inputs.push_back(flag("keep_logits"));
  return inputs;
}

Op forward_op() {
  Op op;
  op.name = "linear_log_probs";
  op.doc =
      "log-probabilities of ids, and entropies, of cap(input @ weight.T + bias) / temperature, "
      "over "
      "chunks of tokens; the backward makes the logits anew, or reads them where they are kept";
  op.inputs = with_options(token_layer());
  op.inputs.push_back(flag("keep_statistics"));
  op.outputs = {{"log_probs", one_each, number_dtype},
                {"entropy", one_each, number_dtype},
                {"statistics",
                 [](const Call& call) {
                   return call.flag("keep_statistics")
                              ? followed_by(rows_of("input"), {log_prob_statistics})
                              : empty();
                 },
                 number_dtype, false},
                {"logits",
                 [](const Call& call) {
                   return call.flag("keep_statistics") && call.flag("keep_logits")
                              ? followed_by(rows_of("input"), {size_of("weight", 0)})
                              : empty();
                 },
                 [](const Call& call) { return call["input"].dtype; }, false}};
  op.check = check_token_layer;
  op.gradient = {.backward = "linear_log_probs_backward",
                 .saved = {"input", "weight", "ids", "bias", "statistics", "logits"},
                 .of = {{"input", "dinput"}, {"weight", "dweight"}, {"bias", "dbias"}},
                 .needs_grad_flag = "keep_statistics"};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"input", "weight", "bias"};
  op.example = token_layer_samples;
  const Extent qwen = {{"rows", 16384}, {"size", 151936}, {"inner", 1024}};
  op.bench = {{"qwen3-0.6b", qwen},
              {.name = "qwen3-0.6b, logits kept", .extent = qwen, .options = {{"memory", "fast"}}},
              {.name = "qwen3-0.6b, frozen head", .extent = qwen, .frozen = {"weight"}},
              {.name = "qwen3-0.6b, frozen head, logits kept",
               .extent = qwen,
               .options = {{"memory", "fast"}},
               .frozen = {"weight"}}};
  return op;
}

Op backward_op() {
  Op op;
  op.name = "linear_log_probs_backward";
  op.doc = "gradients of linear_log_probs for a derivative of each log-probability and entropy";
  op.internal = true;
  std::vector<Input> inputs = {dense("dlog_probs"), dense("dentropy")};
  for (Input& input : token_layer()) inputs.push_back(std::move(input));
  inputs.push_back(dense("statistics"));
  inputs.push_back(optional(dense("logits")));
  op.inputs = with_options(std::move(inputs));
  op.inputs.push_back(mask("output_mask", 3));
  op.outputs = {gradient_output("dinput", "input", "input", 0),
                gradient_output("dweight", "weight", "input", 1),
                gradient_output("dbias", "bias", "input", 2)};
  op.check = check_token_layer;
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = {
        {.input = "dlog_probs", .shape = {e["rows"]}, .dtype = "arithmetic"},
        {.input = "dentropy", .shape = {e["rows"]}, .dtype = "arithmetic"}};
    for (Sample& sample : token_layer_samples(e)) samples.push_back(std::move(sample));
    samples.push_back(
        {.input = "statistics", .shape = {e["rows"], log_prob_statistics}, .dtype = "arithmetic"});
    samples.push_back({.input = "logits", .none = true});
    for (const auto& [name, value] :
         std::vector<std::pair<std::string, double>>{{"temperature", 1},
                                                     {"softcap", 0},
                                                     {"ignore_index", -100},
                                                     {"accumulate", 0},
                                                     {"chunk_tokens", 0},
                                                     {"exact", 0},
                                                     {"counted_tokens", -1},
                                                     {"keep_logits", 0},
                                                     {"output_mask", 7}}) {
      samples.push_back({.input = name, .value = value});
    }
    return samples;
  };
  return op;
}

const Register forward{forward_op()};
const Register backward{backward_op()};

}  // namespace
}  // namespace liger
