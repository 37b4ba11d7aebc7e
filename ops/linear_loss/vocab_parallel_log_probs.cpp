#include "engine/registry.h"
#include "ops/gradient_output.h"
#include "ops/linear_loss/linear_loss.h"
#include "ops/loss/log_probs.h"

namespace liger {
namespace {

constexpr int64_t numbers_of_part = log_prob_statistics + 1;  // as the template has them

Dtype number_dtype(const Call& call) { return arithmetic(call["input"].dtype); }
Shape one_each(const Call&) { return rows_of("input"); }

std::vector<Input> with_options(std::vector<Input> inputs) {
  for (auto options : {score_options(), rank_options(), division_options()}) {
    for (Input& option : options) inputs.push_back(std::move(option));
  }
  return inputs;
}

void check_layer(const Call& call) {
  check_token_layer(call);
  check_ranks(call);
}

std::string shape_of_parts(int64_t ranks, int64_t rows, Dtype dtype) {
  return "[" + std::to_string(ranks) + ", " + std::to_string(rows) + ", " +
         std::to_string(numbers_of_part) + "] " + std::string(name_of(dtype)) +
         ", what each rank knows";
}

void check_parts(const Call& call, int64_t ranks, int64_t rows, Dtype dtype) {
  const Tensor& parts = call["parts"];
  if (parts.dims != 3 || parts.sizes[0] != ranks || parts.sizes[1] != rows ||
      parts.sizes[2] != numbers_of_part || parts.dtype != dtype) {
    call.refuse("parts", "has shape " + shape_text(parts), shape_of_parts(ranks, rows, dtype));
  }
}

Op forward_op() {
  Op op;
  op.name = "vocab_parallel_log_probs";
  op.doc =
      "linear_log_probs of a layer whose classes are spread over ranks, from what each has told of "
      "its part";
  std::vector<Input> inputs = token_layer();
  inputs.push_back(optional(dense("parts", {Dtype::f32, Dtype::f64})));
  op.inputs = with_options(std::move(inputs));
  op.outputs = {{"log_probs", one_each, number_dtype},
                {"entropy", one_each, number_dtype},
                {"statistics",
                 [](const Call&) { return followed_by(rows_of("input"), {log_prob_statistics}); },
                 number_dtype, false}};
  op.check = [](const Call& call) {
    check_layer(call);
    const int64_t ranks = call.integer("ranks"), rows = call["input"].rows();
    if (call.has("parts") && ranks == 1)
      call.refuse("parts", "is given with one rank", "None, or two ranks or more");
    if (call.has("parts")) return check_parts(call, ranks, rows, number_dtype(call));
    if (ranks > 1) call.refuse("parts", "is None", shape_of_parts(ranks, rows, number_dtype(call)));
  };
  op.gradient = {.backward = "vocab_parallel_log_probs_backward",
                 .saved = {"input", "weight", "ids", "bias", "statistics"},
                 .of = {{"input", "dinput"}, {"weight", "dweight"}, {"bias", "dbias"}}};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"input", "weight", "bias"};
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = token_layer_samples(e);
    samples.push_back({.input = "parts", .none = true});
    return samples;
  };
  op.bench = {{"qwen3-0.6b-half", {{"rows", 16384}, {"size", 75968}, {"inner", 1024}}}};
  return op;
}

Op part_op() {
  Op op;
  op.name = "vocab_parallel_log_probs_part";
  op.doc = "of each token what this rank's classes tell of log-probability and entropy";
  op.internal = true;
  op.part_of = "vocab_parallel_log_probs";
  op.inputs = with_options(token_layer());
  op.outputs = {{"part",
                 [](const Call&) { return followed_by(rows_of("input"), {numbers_of_part}); },
                 number_dtype, false}};
  op.check = [](const Call& call) {
    check_layer(call);
    if (call.integer("ranks") < 2)
      call.refuse("ranks", "is " + std::to_string(call.integer("ranks")), "2 or more");
  };
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"input", "weight", "bias"};
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = token_layer_samples(e);
    for (const Input& option : with_options({})) {
      double value = option.name == "ranks" ? 2.0 : option.name == "temperature" ? 1.0 : 0.0;
      if (option.name == "ignore_index") value = -100;
      samples.push_back({.input = option.name, .value = value});
    }
    return samples;
  };
  return op;
}

Op merge_op() {
  Op op;
  op.name = "merged_log_probs";
  op.doc = "log-probabilities and entropies of what each rank knows";
  op.internal = true;
  op.part_of = "vocab_parallel_log_probs";
  op.inputs = {dense("parts", {Dtype::f32, Dtype::f64}), dense("ids", {Dtype::i64}),
               real("temperature", "1.0"), integer("ignore_index", -100), integer("classes", 1)};
  const auto dtype = [](const Call& call) { return call["parts"].dtype; };
  op.outputs = {
      {"log_probs", [](const Call&) { return like("ids"); }, dtype, false},
      {"entropy", [](const Call&) { return like("ids"); }, dtype, false},
      {"whole", [](const Call&) { return followed_by(like("ids"), {log_prob_statistics}); }, dtype,
       false}};
  op.check = [](const Call& call) {
    require_dims(call, "ids", 1, "[tokens]");
    const Tensor& parts = call["parts"];
    check_parts(call, parts.dims == 3 ? parts.sizes[0] : 1, call["ids"].count(), parts.dtype);
  };
  op.kernels = {
      {.name = "MergedLogProbs",
       .source = "loss/vocab_parallel_log_probs.h",
       .spec = [](const Call& call) -> Spec {
         return {{"arithmetic", call["parts"].dtype}};
       },
       .candidates = [](const Call& call) -> std::vector<Knobs> {
         return {{{"threads", 1}, {"rows", call.on_host() ? 256 : 128}}};
       },
       .blocks = [](const Call& call,
                    const Knobs& knobs) { return row_blocks(call["ids"].count(), knobs); },
       .arguments = {"parts",
                     "ids",
                     "log_probs",
                     "entropy",
                     "whole",
                     {"rows", [](const Call& call) { return call["ids"].count(); }},
                     {"ranks", "parts.size0"},
                     "classes",
                     "ignore_index",
                     "temperature"}}};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {{.input = "parts",
             .shape = {1, e["rows"], numbers_of_part},
             .dtype = "arithmetic",
             .probabilities = true},
            {.input = "ids", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
            {.input = "temperature", .value = 1},
            {.input = "ignore_index", .value = -100},
            {.input = "classes", .value = static_cast<double>(e["size"])}};
  };
  return op;
}

Op backward_op() {
  Op op;
  op.name = "vocab_parallel_log_probs_backward";
  op.doc = "gradients of this rank's part of the layer, that of the input one term of a sum";
  op.internal = true;
  std::vector<Input> inputs = {dense("dlog_probs"), dense("dentropy")};
  for (Input& input : token_layer()) inputs.push_back(std::move(input));
  inputs.push_back(dense("statistics"));
  op.inputs = with_options(std::move(inputs));
  op.inputs.push_back(mask("output_mask", 3));
  op.outputs = {gradient_output("dinput", "input", "input", 0),
                gradient_output("dweight", "weight", "input", 1),
                gradient_output("dbias", "bias", "input", 2)};
  op.check = check_layer;
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = {
        {.input = "dlog_probs", .shape = {e["rows"]}, .dtype = "arithmetic"},
        {.input = "dentropy", .shape = {e["rows"]}, .dtype = "arithmetic"}};
    for (Sample& sample : token_layer_samples(e)) samples.push_back(std::move(sample));
    samples.push_back({.input = "statistics",
                       .shape = {e["rows"], log_prob_statistics},
                       .dtype = "arithmetic",
                       .probabilities = true});
    for (const Input& option : with_options({})) {
      const bool one = option.name == "temperature" || option.name == "ranks";
      samples.push_back({.input = option.name,
                         .value = one                               ? 1.0
                                  : option.name == "ignore_index"   ? -100.0
                                  : option.name == "counted_tokens" ? -1.0
                                                                    : 0.0});
    }
    samples.push_back({.input = "output_mask", .value = 7});
    return samples;
  };
  return op;
}

const Register forward{forward_op()};
const Register part{part_op()};
const Register merge{merge_op()};
const Register backward{backward_op()};

}  // namespace
}  // namespace liger
