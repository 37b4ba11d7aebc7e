// One step of the loss of a policy, for log-probabilities that are there.
#include "base/parts.h"
#include "base/text.h"
#include "engine/registry.h"
#include "ops/linear_loss/policy_loss.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t threads_of_step = 128;

int64_t sequences_of(const Call& call) { return call["log_probs"].sizes[0]; }
int64_t length_of(const Call& call) { return call["log_probs"].sizes[1]; }
bool single(const Call& call) { return length_of(call) == 1; }

void check(const Call& call) {
  require_dims(call, "log_probs", 2, "[sequences, tokens]");
  const int64_t sums = call.flag("sums") ? sequences_of(call) : call["log_probs"].count();
  const auto require_count = [&](std::string_view name, int64_t count) {
    if (call.has(name) && call[name].count() != count)
      call.refuse(name, "has shape " + shape_text(call[name]), fmt::format("{} elements", count));
  };
  for (const std::string_view name : {"loss", "kl", "clipped"}) require_count(name, sums);
  for (const std::string_view name :
       {"token_mask", "weight", "ref_log_probs", "old_log_probs", "slope", "shared_slope"})
    require_count(name, call["log_probs"].count());
  require_count("advantages", sequences_of(call));
  const Dtype slope = call.flag("derivative") ? call["log_probs"].dtype : Dtype::f64;
  if (call.has("slope") && call["slope"].dtype != slope)
    call.refuse("slope", "has dtype " + std::string(name_of(call["slope"].dtype)),
                std::string(name_of(slope)));
  if (call.flag("derivative") && !call.has("slope"))
    call.refuse("slope", "is None", "a tensor, for the derivative");
}

KernelOf kernel() {
  return {.name = "PolicyStep",
          .source = "linear_loss/policy_step.h",
          // Of no tokens too: their sums are zeros.
          .when = [](const Call& call) { return sequences_of(call) > 0; },
          .spec = [](const Call& call) -> Spec {
            const Tensor& ratio = call["importance_ratio"];
            return {{"log_prob", call["log_probs"].dtype},
                    {"loss_type", call.integer("loss_type")},
                    {"single", single(call)},
                    {"shared", call.integer("importance_sampling_level") != 0},
                    {"has_ref", call.has("ref_log_probs")},
                    {"has_old", call.has("old_log_probs")},
                    {"has_ratio", ratio.defined},
                    {"ratio_of_sequence",
                     ratio.defined && ratio.dims == 2 && ratio.sizes[1] == 1 && !single(call)},
                    {"bounded", call.real("delta") > 0.0},
                    {"diverges", call.real("beta") != 0.0},
                    {"corrected", call.flag("bias_corrected_kl")},
                    {"sums", call.flag("sums")},
                    {"derivative", call.flag("derivative")}};
          },
          .candidates = [](const Call&) -> std::vector<Knobs> {
            return {{{"threads", threads_of_step}}};
          },
          .blocks =
              [](const Call& call, const Knobs&) {
                return single(call) ? parts(sequences_of(call), threads_of_step)
                                    : sequences_of(call);
              },
          .arguments = {"log_probs",
                        {"mask", "token_mask"},
                        "weight",
                        "advantages",
                        {"ref", "ref_log_probs"},
                        {"old", "old_log_probs"},
                        {"importance", "importance_ratio"},
                        "loss",
                        "kl",
                        "clipped",
                        "slope",
                        "shared_slope",
                        {"rows", sequences_of},
                        {"tokens", length_of},
                        "unit",
                        "beta",
                        "epsilon_low",
                        "epsilon_high",
                        "delta",
                        "sapo_temperature_pos",
                        "sapo_temperature_neg",
                        "vespo_k_pos",
                        "vespo_lambda_pos",
                        "vespo_k_neg",
                        "vespo_lambda_neg"}};
}

Op step() {
  const std::vector<Dtype> wide = {Dtype::f64};
  Op op;
  op.name = "policy_step_";
  op.doc = "what each token, or each sequence, gives to the loss of a policy, and its derivative";
  op.internal = true;
  op.inputs = {dense("log_probs", {Dtype::f32, Dtype::f64}),
               dense("token_mask", wide),
               dense("weight", wide),
               dense("advantages", wide),
               optional(dense("ref_log_probs", wide)),
               optional(dense("old_log_probs", wide)),
               optional(dense("importance_ratio", wide)),
               written(dense("loss", wide)),
               written(dense("kl", wide)),
               written(dense("clipped", wide)),
               optional(written(dense("slope", {Dtype::f32, Dtype::f64}))),
               optional(written(dense("shared_slope", wide)))};
  for (Input& option : policy_options()) op.inputs.push_back(std::move(option));
  op.inputs.push_back(flag("sums"));
  op.inputs.push_back(flag("derivative"));
  op.inputs.push_back(real("unit", "1.0"));
  op.check = check;
  op.kernels = {kernel()};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    std::vector<Sample> samples = {
        {.input = "log_probs", .shape = {e["rows"], e["size"]}, .dtype = "arithmetic"}};
    for (const char* const name : {"token_mask", "weight", "ref_log_probs", "old_log_probs"})
      samples.push_back({.input = name, .shape = {e["rows"], e["size"]}, .dtype = "f64"});
    for (const char* const name : {"advantages", "loss", "kl", "clipped"})
      samples.push_back({.input = name, .shape = {e["rows"]}, .dtype = "f64"});
    samples.push_back({.input = "importance_ratio", .none = true});
    samples.push_back({.input = "slope", .shape = {e["rows"], e["size"]}, .dtype = "arithmetic"});
    samples.push_back({.input = "shared_slope", .none = true});
    samples.push_back({.input = "importance_sampling_level", .value = 1});
    samples.push_back({.input = "loss_type", .value = 0});
    samples.push_back({.input = "sums", .value = 1});
    samples.push_back({.input = "derivative", .value = 1});
    return samples;
  };
  return op;
}

const Register policy_step{step()};

}  // namespace
}  // namespace liger
