#include "base/text.h"
#include "engine/registry.h"
#include "ops/gradient_output.h"
#include "ops/linear_loss/linear_loss.h"
#include "ops/linear_loss/policy_loss.h"
#include "ops/loss/cross_entropy.h"
#include "ops/loss/log_probs.h"

namespace liger {
namespace {

Dtype number_dtype(const Call& call) { return arithmetic(call["input"].dtype); }
Shape one(const Call&) { return scalar(); }

void check(const Call& call) {
  check_linear_layer(call, 3, "[sequences, tokens, hidden]");
  const Tensor& input = call["input"];
  const Tensor& ids = call["ids"];
  if (ids.dims != 2 || ids.sizes[0] != input.sizes[0] || ids.sizes[1] != input.sizes[1]) {
    call.refuse("ids", "has shape " + shape_text(ids),
                fmt::format("[{}, {}], one id a token", input.sizes[0], input.sizes[1]));
  }
  check_policy(call, "ids");
  check_scores(call);
}

std::vector<Input> inputs() {
  std::vector<Input> all = {dense("input"), dense("weight"), dense("ids", {Dtype::i64}),
                            optional(dense("bias"))};
  for (auto options : {policy_tensors(), policy_options(), score_options(), division_options()})
    for (Input& input : options) all.push_back(std::move(input));
  Input asked = mask("with_gradient", 3);
  asked.default_text = "[False, False, False]";
  all.push_back(std::move(asked));
  return all;
}

Op grpo() {
  Op op;
  op.name = "fused_linear_grpo";
  op.doc =
      "policy_loss of a linear layer's log-probabilities, over chunks of tokens, so that the "
      "logits "
      "never exist as a whole; gradients are made in the forward";
  op.inputs = inputs();
  op.outputs = {{"loss", one, number_dtype},
                {"kl", one, number_dtype, false},
                {"clip_ratio", one, number_dtype, false},
                gradient_output("dinput", "input", "input", 0, "with_gradient"),
                gradient_output("dweight", "weight", "input", 1, "with_gradient"),
                gradient_output("dbias", "bias", "input", 2, "with_gradient")};
  op.check = check;
  op.gradient = {
      .of = {{"input", "dinput"}, {"weight", "dweight"}, {"bias", "dbias"}},
      .needs_grad_flag = "with_gradient",
      .unit = [](const Call& call) { return gradient_unit(call["input"].dtype, Reduction::mean); }};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"input", "weight", "bias"};
  op.sizes = example_sizes({{"sequences", 3, "sequences that were sampled"}});
  op.example = [](const Extent& e) {
    const int64_t sequences = e["sequences"], tokens = e["rows"], hidden = e["inner"];
    std::vector<Sample> samples = {
        {.input = "input", .shape = {sequences, tokens, hidden}},
        {.input = "weight", .shape = {e["size"], hidden}},
        {.input = "ids", .shape = {sequences, tokens}, .dtype = "i64", .below = e["size"]},
        {.input = "bias", .none = true}};
    for (Sample& sample : policy_samples(sequences, tokens)) samples.push_back(std::move(sample));
    // Ratios of single tokens are as wide apart as random log-probabilities make them.
    samples.push_back({.input = "loss_type", .value = 0});
    samples.push_back({.input = "importance_sampling_level", .value = 1});
    samples.push_back({.input = "beta", .value = 0});
    return samples;
  };
  op.bench = {{"llama-1b", {{"sequences", 8}, {"rows", 1024}, {"size", 128256}, {"inner", 2048}}}};
  return op;
}

const Register fused_linear_grpo{grpo()};

}  // namespace
}  // namespace liger
