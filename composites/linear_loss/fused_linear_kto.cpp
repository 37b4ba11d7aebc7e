// Kahneman-Tversky optimisation (arXiv:2402.01306). With c the log-ratio of a sequence, the loss is
// 1 - s(beta (c - kl)) of a chosen one and 1 - s(beta (kl - c)) of another.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sigmoid.h>

#include "composites/linear_loss/preference.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

using at::Tensor;

class Kto final : public LogProbLoss {
 public:
  Kto(const CompositeCall& in, const LogProbCall& call)
      : sequences_(in, call,
                   in["average_log_prob"].toBool() ? Sequences::Averages::log_probs
                                                   : Sequences::Averages::none),
        beta_(in["beta"].toDouble()),
        count_(static_cast<double>(call.units.count)),
        unit_(unit_of_mean(call.layer)),
        tokens_(call.units.tokens) {
    const auto number = sequences_.sums().scalar_type();
    chosen_ = in.tensor("preference_labels").ne(0).to(number);
    sign_ = chosen_ * 2 - 1;
    loss_ = at::empty_like(chosen_);
    if (in.has("kl")) kl_ = in.tensor("kl").to(number).expand_as(chosen_);
  }

  TokenNumbers step(int64_t first, const TokenNumbers& tokens) override {
    const int64_t count = tokens.log_prob.size(1);
    const auto part = [&](const Tensor& whole) { return whole.narrow(0, first, count); };
    Tensor ahead = sequences_.take(first, tokens.log_prob)[0];
    if (kl_.defined()) ahead = ahead - part(kl_);
    const Tensor gain = ahead * part(sign_) * beta_;
    const Tensor loss = at::sigmoid(-gain);
    part(loss_).copy_(loss);
    const Tensor slope = loss * at::sigmoid(gain) * part(sign_) * (-beta_ * unit_ / count_);
    return {sequences_.by_tokens(first, slope.unsqueeze(0)).expand_as(tokens.log_prob), {}};
  }

  // When all sequences were there.
  Tensors loss_and_metrics(const LinearLayer& layer) const {
    const double logits = static_cast<double>(tokens_ * layer.weight.size(0));  // of a sequence
    const Tensor sums = mean_logits(layer, chosen_.size(0), tokens_) * logits;
    Tensors outputs = {loss_.sum() / count_};
    for (const Tensor& each :
         {sequences_.log_probs()[0], sums, sequences_.log_ratios()[0] * beta_}) {
      outputs.push_back((each * chosen_).sum());
      outputs.push_back((each * (1 - chosen_)).sum());
    }
    return outputs;
  }

 private:
  Sequences sequences_;
  const double beta_, count_, unit_;
  const int64_t tokens_;
  Tensor chosen_, sign_, kl_, loss_;
};

Tensors fused_linear_kto(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const LogProbCall call = sequences_of(in, 1);
  Kto loss(in, call);
  const LayerGradients gradients = run(in, call, loss);
  Tensors outputs = loss.loss_and_metrics(call.layer);
  append_gradients(outputs, gradients, in.tensor("input"));
  return outputs;
}

const RegisterComposite registered("fused_linear_kto", fused_linear_kto);

}  // namespace
}  // namespace liger::torch_bindings
