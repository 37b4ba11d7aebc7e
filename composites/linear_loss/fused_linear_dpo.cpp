// Direct preference optimisation (arXiv:2305.18290) and its kin. Of a pair, with the log-ratios c
// and r of the chosen and the rejected sequence to the reference model, each loss is a function of
// c and r, written here beside its derivatives.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/square.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "composites/linear_loss/log_prob_loss.h"
#include "engine/registry.h"
#include "ops/linear_loss/fused_linear_dpo.h"
#include "ops/loss/cross_entropy.h"

namespace liger::torch_bindings {
namespace {

using at::Tensor;

struct Formula {
  double beta, smoothing, tau;
};

// Of each pair the loss, and its derivatives with respect to c and r.
struct PairLoss {
  Tensor loss, chosen, rejected;
};

// Of the rewards' difference alone: d = beta (c - r).
PairLoss of_difference(const Formula& f, const Tensor& loss, const Tensor& slope) {
  const Tensor chosen = slope * f.beta;
  return {loss, chosen, -chosen};
}
// Of both rewards.
PairLoss of_rewards(const Formula& f, const Tensor& loss, const Tensor& chosen,
                    const Tensor& rejected) {
  return {loss, chosen * f.beta, rejected * f.beta};
}

// With smoothing the conservative form: labels are flipped that often.
PairLoss sigmoid(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor d = (c - r) * f.beta;
  const double e = f.smoothing;
  return of_difference(f, at::log_sigmoid(d) * -(1 - e) - at::log_sigmoid(-d) * e,
                       at::sigmoid(d) * e - at::sigmoid(-d) * (1 - e));
}

// arXiv:2305.10425
PairLoss hinge(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor margin = 1 - (c - r) * f.beta;
  return of_difference(f, at::relu(margin), -margin.gt(0).to(margin.scalar_type()));
}

// arXiv:2310.12036, of log-ratios a token.
PairLoss ipo(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor off = c - r - 0.5 / f.beta;
  return {off.square(), off * 2, off * -2};
}

// arXiv:2402.00856, equation 16
PairLoss exo_pair(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor d = (c - r) * f.beta;
  const Tensor chosen = at::sigmoid(d), rejected = at::sigmoid(-d);
  const double log_chosen = std::log1p(-f.smoothing), log_rejected = std::log(f.smoothing);
  return of_difference(
      f,
      chosen * (at::log_sigmoid(d) - log_chosen) + rejected * (at::log_sigmoid(-d) - log_rejected),
      chosen * rejected * (d - (log_chosen - log_rejected)));
}

// arXiv:2402.05369
PairLoss nca_pair(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor x = c * f.beta, y = r * f.beta;
  return of_rewards(f, -at::log_sigmoid(x) - (at::log_sigmoid(-x) + at::log_sigmoid(-y)) * 0.5,
                    at::sigmoid(x) * 0.5 - at::sigmoid(-x), at::sigmoid(y) * 0.5);
}

// arXiv:2403.00409
PairLoss robust(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor d = (c - r) * f.beta;
  const double e = f.smoothing, scale = 1 / (1 - 2 * e);
  return of_difference(f, (at::log_sigmoid(-d) * e - at::log_sigmoid(d) * (1 - e)) * scale,
                       (at::sigmoid(-d) * (1 - e) + at::sigmoid(d) * e) * -scale);
}

// arXiv:2404.04656, without its shift
PairLoss bco_pair(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor x = c * f.beta, y = r * f.beta;
  return of_rewards(f, -at::log_sigmoid(x) - at::log_sigmoid(-y), -at::sigmoid(-x), at::sigmoid(y));
}

// arXiv:2405.00675, with probabilities 1 and 0
PairLoss sppo_hard(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor chosen = c - 0.5 / f.beta, rejected = r + 0.5 / f.beta;
  return {chosen.square() + rejected.square(), chosen * 2, rejected * 2};
}

// arXiv:2408.06266, equation 7
PairLoss apo_zero(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor x = c * f.beta, y = r * f.beta;
  const Tensor not_chosen = at::sigmoid(-x), rejected = at::sigmoid(y);
  return of_rewards(f, not_chosen + rejected, -at::sigmoid(x) * not_chosen,
                    rejected * at::sigmoid(-y));
}

// arXiv:2408.06266, equation 8
PairLoss apo_down(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor x = c * f.beta, d = (c - r) * f.beta;
  const Tensor chosen = at::sigmoid(x), wrong = at::sigmoid(-d);
  const Tensor of_d = at::sigmoid(d) * wrong;
  return of_rewards(f, chosen + wrong, chosen * at::sigmoid(-x) - of_d, of_d);
}

// arXiv:2406.08414, equation 5. exp(-d) is large only where its factor is small: one exponential.
PairLoss discopop(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor d = (c - r) * f.beta;
  const Tensor scaled = d / f.tau;
  const Tensor share = at::sigmoid(scaled), other = at::sigmoid(-scaled);
  const Tensor log = at::log_sigmoid(d);
  const Tensor exponential = at::exp(at::log_sigmoid(scaled) - d);
  return of_difference(
      f, exponential - log * other,
      (log * share + exponential) * other / f.tau - at::sigmoid(-d) * other - exponential);
}

using Loss = PairLoss (*)(const Formula&, const Tensor&, const Tensor&);

// In the order of DpoLoss.
constexpr Loss losses[] = {sigmoid,  hinge,     ipo,      exo_pair, nca_pair, robust,
                           bco_pair, sppo_hard, apo_zero, apo_down, discopop};

class Dpo final : public LogProbLoss {
 public:
  // `ids`: [2, pairs, tokens]. `reference`: log-probabilities of the tokens, of that shape, or of
  // the sequences, [2, pairs].
  Dpo(const CompositeCall& in, const Tensor& ids, const Tensor& reference,
      const at::TensorOptions& exact)
      : kind_(in["loss_type"].toInt()),
        formula_{in["beta"].toDouble(), in["label_smoothing"].toDouble(),
                 in["discopop_tau"].toDouble()},
        average_(in["average_log_prob"].toBool()),
        nll_(in["compute_nll_loss"].toBool()),
        alpha_(in["alpha"].toDouble()),
        pairs_(ids.size(1)),
        unit_(in.tensor("input").scalar_type() == at::kHalf
                  ? gradient_unit(Dtype::f16, Reduction::mean)
                  : 1.0) {
    const Tensor counts =
        ids.ne(in["ignore_index"].toInt()).sum(2).to(exact.dtype().toScalarType());
    // A sequence of no tokens has a log-probability of 0, however it is divided.
    lengths_ = counts.clamp_min(1);
    chosen_tokens_ = counts[0].sum().clamp_min(1);
    sums_ = at::zeros({2, pairs_}, exact);
    loss_ = at::empty({pairs_}, exact);
    reference_ = reference.dim() == 3 ? of_sequences(reference.sum(2), lengths_) : reference;
  }

  TokenNumbers step(int64_t first, const TokenNumbers& tokens) override {
    const int64_t count = tokens.log_prob.size(1);
    const auto part = [&](const Tensor& whole) { return whole.narrow(1, first, count); };
    const Tensor lengths = part(lengths_);
    part(sums_).copy_(tokens.log_prob.sum(2));
    Tensor ratios = of_sequences(part(sums_), lengths) - part(reference_);
    if (divides_ratios()) ratios = ratios / lengths;
    const PairLoss pair = losses[kind_](formula_, ratios[0], ratios[1]);
    loss_.narrow(0, first, count).copy_(pair.loss);
    Tensor slopes = at::stack({pair.chosen, pair.rejected});
    if (average_ || divides_ratios()) slopes = slopes / lengths;
    slopes = slopes * (unit_ / static_cast<double>(pairs_));
    if (nll_) slopes[0].sub_(chosen_tokens_.reciprocal(), alpha_ * unit_);
    return {slopes.unsqueeze(2).expand_as(tokens.log_prob), {}};
  }

  // When all units were there.
  Tensor log_probs() const { return of_sequences(sums_, lengths_); }
  Tensor rewards() const { return (log_probs() - reference_) * formula_.beta; }
  Tensor nll() const { return nll_ ? -sums_[0].sum() / chosen_tokens_ : sums_.new_zeros({}); }
  Tensor loss() const {
    const Tensor mean = loss_.sum() / static_cast<double>(pairs_);
    return nll_ ? mean + nll() * alpha_ : mean;
  }

 private:
  bool divides_ratios() const { return static_cast<DpoLoss>(kind_) == DpoLoss::ipo && !average_; }
  Tensor of_sequences(const Tensor& sums, const Tensor& lengths) const {
    return average_ ? sums / lengths : sums;
  }

  const int64_t kind_;
  const Formula formula_;
  const bool average_, nll_;
  const double alpha_;
  const int64_t pairs_;
  const double unit_;  // so that a small type holds the gradient
  Tensor lengths_, chosen_tokens_, reference_, sums_, loss_;
};

// Of the reference, or zeros: without one log-ratios are log-probabilities.
Tensor reference_of(const CompositeCall& in, const Tensor& ids, const Units& units,
                    const at::TensorOptions& exact) {
  if (in.has("ref_log_probs")) return in.tensor("ref_log_probs").view({2, units.count});
  if (!in.has("ref_input")) return at::zeros({2, units.count}, exact);
  const LinearLayer layer{by_rows(in.tensor("ref_input")).contiguous(),
                          in.tensor("ref_weight").contiguous(), in.tensor("ref_bias")};
  return numbers_of(in, layer, ids, false).log_prob.view({units.parts, units.count, units.tokens});
}

// Of all logits of the chosen and of the rejected sequences, [2]. The layer is linear, so it is
// that of the mean state and the mean row of the weight, and no logit is read for it.
Tensor mean_logits(const LinearLayer& layer, const Units& units, const at::TensorOptions& exact) {
  const auto wide = exact.dtype().toScalarType();
  const Tensor states =
      at::mean(layer.input.view({units.parts, units.count * units.tokens, layer.input.size(1)}), 1,
               false, wide);
  const Tensor mean = at::mv(states, at::mean(layer.weight, 0, false, wide));
  return layer.bias.defined() ? mean + at::mean(layer.bias, 0, false, wide) : mean;
}

Tensors fused_linear_dpo(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const Tensor input = in.tensor("input");
  const auto options = input.options();
  const auto exact = exact_options(options);
  const Units units{.parts = 2, .count = input.size(0) / 2, .tokens = input.size(1)};
  const Tensor ids = in.tensor("ids").contiguous();
  const LogProbCall call{.layer = layer_of(in),
                         .ids = ids.view(-1),
                         .units = units,
                         .wanted = wanted_of(in, "with_gradient")};
  Dpo loss(in, ids.view({units.parts, units.count, units.tokens}),
           reference_of(in, call.ids, units, exact), exact);
  const LayerGradients made = run(in, call, loss);
  const Tensor log_probs = loss.log_probs(), rewards = loss.rewards();
  const Tensor means = mean_logits(call.layer, units, exact);
  return {loss.loss(),
          log_probs[0].clone(),
          log_probs[1].clone(),
          means[0].clone(),
          means[1].clone(),
          loss.nll(),
          rewards[0].clone(),
          rewards[1].clone(),
          made.input.defined() ? made.input.view(input.sizes()) : at::empty({0}, options),
          or_empty(made.weight, options),
          or_empty(made.bias, options)};
}

const RegisterComposite registered("fused_linear_dpo", fused_linear_dpo);

}  // namespace
}  // namespace liger::torch_bindings
