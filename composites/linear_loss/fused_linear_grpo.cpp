// Group relative policy optimisation (arXiv:2402.03300) and its kin: ops/linear_loss/policy_loss.h
// has the formulas.
#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>

#include <array>

#include "composites/linear_loss/log_prob_loss.h"
#include "composites/linear_loss/policy_batch.h"
#include "engine/registry.h"
#include "ops/linear_loss/policy_loss.h"

namespace liger::torch_bindings {
namespace {

using at::Tensor;

class Grpo final : public LogProbLoss {
 public:
  Grpo(const CompositeCall& in, const PolicyBatch& batch, double unit)
      : in_(in), batch_(batch), unit_(unit), numbers_(PolicyNumbers::room_for(batch.advantages)) {}

  TokenNumbers step(int64_t first, const TokenNumbers& tokens) override {
    const int64_t count = tokens.log_prob.size(1);
    return {policy_derivative(in_, batch_.sequences(first, count), tokens.log_prob[0],
                              numbers_.sequences(first, count), unit_)
                .unsqueeze(0),
            {}};
  }

  // When all units were there: the loss, the mean divergence, the share of clipped tokens.
  std::array<Tensor, 3> results() const {
    const Tensor tokens = batch_.tokens_counted();
    return {numbers_.loss.sum(), numbers_.kl.sum() / tokens, numbers_.clipped.sum() / tokens};
  }

 private:
  const CompositeCall& in_;
  const PolicyBatch batch_;
  const double unit_;  // so that a small type holds the gradient
  const PolicyNumbers numbers_;
};

// Whether a token's loss depends on the others of its sequence.
bool of_whole_sequences(const CompositeCall& in) {
  return in["importance_sampling_level"].toInt() != 0 ||
         static_cast<PolicyLossType>(in["loss_type"].toInt()) == PolicyLossType::vespo;
}

Tensors fused_linear_grpo(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const Tensor input = in.tensor("input"), ids = in.tensor("ids").contiguous();
  const PolicyBatch batch = PolicyBatch::of(in, /*reduce=*/true);
  const bool whole = of_whole_sequences(in);
  const LogProbCall call{
      .layer = layer_of(in),
      .ids = at::where(batch.counted(), ids, in["ignore_index"].toInt()).contiguous().view(-1),
      .units = {.count = whole ? ids.size(0) : ids.numel(), .tokens = whole ? ids.size(1) : 1},
      .wanted = wanted_of(in, "with_gradient")};
  Grpo loss(in, whole ? batch : batch.tokens(), unit_of_mean(call.layer));
  const LayerGradients made = run(in, call, loss);
  const auto [mean, kl, clip_ratio] = loss.results();
  const auto number = exact_options(input.options()).dtype().toScalarType();
  Tensors outputs = {mean.to(number), kl.to(number), clip_ratio.to(number)};
  append_gradients(outputs, made, input);
  return outputs;
}

const RegisterComposite registered("fused_linear_grpo", fused_linear_grpo);

}  // namespace
}  // namespace liger::torch_bindings
