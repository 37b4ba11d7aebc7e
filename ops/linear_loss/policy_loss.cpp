#include "ops/linear_loss/policy_loss.h"

#include <algorithm>

#include "base/text.h"
#include "engine/registry.h"
#include "ops/gradient_output.h"
#include "ops/row_knobs.h"

namespace liger {

std::vector<Input> policy_options() {
  return {choice("loss_type",
                 {"grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"}, "dapo"),
          choice("importance_sampling_level", {"token", "sequence"}, "token"),
          real("beta", "0.04"),
          flag("bias_corrected_kl"),
          real("epsilon_low", "0.2"),
          real("epsilon_high", "0.2"),
          real("delta", "0.0"),
          real("sapo_temperature_pos", "1.0"),
          real("sapo_temperature_neg", "1.05"),
          real("vespo_k_pos", "2.0"),
          real("vespo_lambda_pos", "3.0"),
          real("vespo_k_neg", "3.0"),
          real("vespo_lambda_neg", "2.0"),
          integer("max_completion_length", 0)};
}

std::vector<Input> policy_tensors() {
  return {dense("token_mask", {Dtype::i64, Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16}),
          dense("advantages"),
          optional(dense("ref_log_probs")),
          optional(dense("old_log_probs")),
          optional(dense("importance_ratio")),
          optional(dense("num_items", {Dtype::f32}))};
}

std::vector<Sample> policy_samples(int64_t sequences, int64_t tokens) {
  return {{.input = "token_mask", .shape = {sequences, tokens}, .dtype = "i64", .below = 2},
          {.input = "advantages",
           .shape = {sequences},
           .dtype = "arithmetic",
           .probabilities = true},  // of one sign, so that no batch is clipped as a whole
          {.input = "ref_log_probs", .shape = {sequences, tokens}, .dtype = "arithmetic"},
          {.input = "old_log_probs", .shape = {sequences, tokens}, .dtype = "arithmetic"},
          {.input = "importance_ratio", .none = true},
          {.input = "num_items", .none = true}};
}

namespace {

void check_options(const Call& call) {
  const auto type = static_cast<PolicyLossType>(call.integer("loss_type"));
  const bool by_items = type == PolicyLossType::dapo || type == PolicyLossType::cispo ||
                        type == PolicyLossType::vespo;
  const bool clips = type < PolicyLossType::cispo || type == PolicyLossType::luspo;
  if (!clips && call.integer("importance_sampling_level") != 0)
    call.refuse("importance_sampling_level", "is sequence",
                "token with the loss types cispo, sapo and vespo");
  const double delta = call.real("delta");
  if (!clips && delta != 0.0)
    call.refuse("delta", fmt::format("is {}", delta),
                "none with the loss types cispo, sapo and vespo");
  if (!(delta >= 0.0))
    call.refuse("delta", fmt::format("is {}", delta), "a positive bound of the ratio, or none");
  for (const char* const name : {"sapo_temperature_pos", "sapo_temperature_neg"})
    if (!(call.real(name) > 0.0))
      call.refuse(name, fmt::format("is {}", call.real(name)), "a positive number");
  if (call.integer("max_completion_length") < 0)
    call.refuse("max_completion_length",
                fmt::format("is {}", call.integer("max_completion_length")),
                "positive, or 0 for the number of tokens of a row");
  if (call.has("num_items") && !by_items)
    call.refuse("num_items", "is given",
                "with the loss types dapo, cispo and vespo, whose denominator it replaces");
}

void require_shape(const Call& call, std::string_view name, std::vector<int64_t> sizes,
                   const std::string& allowed) {
  const Tensor& tensor = call[name];
  if (!tensor.defined) return;
  if (!std::equal(tensor.sizes, tensor.sizes + tensor.dims, sizes.begin(), sizes.end()))
    call.refuse(name, "has shape " + shape_text(tensor), allowed);
}

}  // namespace

void check_policy(const Call& call, std::string_view tokens) {
  require_dims(call, tokens, 2, "[sequences, tokens]");
  const int64_t sequences = call[tokens].sizes[0], length = call[tokens].sizes[1];
  const std::string of_tokens =
      fmt::format("[{}, {}], as '{}' has", sequences, length, std::string(tokens));
  for (const char* const name : {"token_mask", "ref_log_probs", "old_log_probs"})
    require_shape(call, name, {sequences, length}, of_tokens);
  require_shape(call, "advantages", {sequences}, fmt::format("[{}], one a sequence", sequences));
  const Tensor& ratio = call["importance_ratio"];
  const bool of_sequence = ratio.defined && ratio.dims == 2 && ratio.sizes[1] == 1;
  require_shape(call, "importance_ratio", {sequences, of_sequence ? 1 : length},
                of_tokens + fmt::format(", or [{}, 1]", sequences));
  require_shape(call, "num_items", {}, "one number");
  check_options(call);
}

namespace {

Dtype dtype_of_log_probs(const Call& call) { return call["log_probs"].dtype; }

// As they are computed in, so that a gradient is rounded once.
Dtype exact(const Call&) { return Dtype::f64; }
Shape one_or_each(const Call& call) { return call.flag("reduce") ? scalar() : like("log_probs"); }

std::vector<Input> with_options(std::vector<Input> inputs) {
  for (Input& input : policy_options()) inputs.push_back(std::move(input));
  inputs.push_back(flag("reduce", true));
  return inputs;
}

Op forward_op() {
  Op op;
  op.name = "policy_loss";
  op.doc =
      "the loss of a policy, its divergence from a reference, and the share of tokens that are "
      "clipped; without reduce, of each token";
  std::vector<Input> tensors = {dense("log_probs", {Dtype::f32, Dtype::f64})};
  for (Input& input : policy_tensors()) tensors.push_back(std::move(input));
  op.inputs = with_options(std::move(tensors));
  op.inputs.push_back(flag("keep_slopes"));
  op.outputs = {
      {"loss", one_or_each, dtype_of_log_probs},
      {"kl", one_or_each, dtype_of_log_probs, false},
      {"clipped", one_or_each, dtype_of_log_probs, false},
      {"slope",
       [](const Call& call) { return call.flag("keep_slopes") ? like("log_probs") : empty(); },
       exact, false},
      {"shared_slope",
       [](const Call& call) {
         const bool shared = call.integer("importance_sampling_level") != 0;
         return call.flag("keep_slopes") && shared ? like("log_probs") : empty();
       },
       exact, false}};
  op.check = [](const Call& call) { check_policy(call, "log_probs"); };
  op.gradient = {.backward = "policy_loss_backward",
                 .saved = {"slope", "shared_slope", "token_mask"},
                 .of = {{"log_probs", "dlog_probs"}},
                 .needs_grad_flag = "keep_slopes"};
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = {
        {.input = "log_probs", .shape = {e["rows"], e["size"]}, .dtype = "arithmetic"}};
    for (Sample& sample : policy_samples(e["rows"], e["size"]))
      samples.push_back(std::move(sample));
    samples.push_back({.input = "loss_type", .value = 0});
    samples.push_back({.input = "importance_sampling_level", .value = 1});
    samples.push_back({.input = "reduce", .value = 0});
    return samples;
  };
  return op;
}

Op backward_op() {
  Op op;
  op.name = "policy_loss_backward";
  op.doc = "gradient of policy_loss by its log-probabilities";
  op.internal = true;
  op.inputs = with_options({dense("dloss"), dense("slope", {Dtype::f64}),
                            dense("shared_slope", {Dtype::f64}), policy_tensors()[0]});
  op.inputs.push_back(mask("output_mask", 1));
  op.outputs = {gradient_output("dlog_probs", "slope", "dloss", 0)};
  op.check = [](const Call& call) {
    if (!call.flag("reduce")) require_same_shape(call, "slope", "dloss");
    require_same_shape(call, "slope", "token_mask");
    if (call.integer("importance_sampling_level") != 0)
      require_same_shape(call, "slope", "shared_slope");
  };
  op.example = [](const Extent& e) {
    std::vector<Sample> samples;
    const auto numbers = [&](const char* name, const char* dtype) -> Sample {
      return {.input = name, .shape = {e["rows"], e["size"]}, .dtype = dtype};
    };
    samples = {numbers("dloss", "arithmetic"), numbers("slope", "f64"),
               numbers("shared_slope", "f64")};
    samples.push_back(policy_samples(e["rows"], e["size"])[0]);
    for (const Input& option : policy_options())
      samples.push_back({.input = option.name, .value = 1});
    samples.push_back({.input = "reduce", .value = 0});
    samples.push_back({.input = "output_mask", .value = 1});
    return samples;
  };
  return op;
}

const Register forward{forward_op()};
const Register backward{backward_op()};

}  // namespace
}  // namespace liger
