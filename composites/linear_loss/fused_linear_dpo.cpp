// Direct preference optimisation (arXiv:2305.18290) and its kin. Of a pair, with the log-ratios c
// and r of the chosen and the rejected sequence to the reference model, each loss is a function of
// c and r, written here beside its derivatives.
#include <ATen/TensorOperators.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/square.h>

#include <cmath>

#include "composites/linear_loss/preference.h"
#include "engine/registry.h"
#include "ops/linear_loss/fused_linear_dpo.h"

namespace liger::torch_bindings {
namespace {

using at::Tensor;

struct Formula {
  double beta, smoothing, tau;
};

// Of the rewards' difference alone: d = beta (c - r).
PairLoss of_rewards(const Formula& f, const Tensor& loss, const Tensor& slope) {
  return of_difference(loss, slope * f.beta);
}
// Of both rewards.
PairLoss of_rewards(const Formula& f, const Tensor& loss, const Tensor& chosen,
                    const Tensor& rejected) {
  return {loss, chosen * f.beta, rejected * f.beta};
}

// With smoothing the conservative form.
PairLoss sigmoid(const Formula& f, const Tensor& c, const Tensor& r) {
  return logistic(f.beta, 0.0, f.smoothing, c, r);
}

// arXiv:2305.10425
PairLoss hinge(const Formula& f, const Tensor& c, const Tensor& r) {
  const Tensor margin = 1 - (c - r) * f.beta;
  return of_rewards(f, at::relu(margin), -margin.gt(0).to(margin.scalar_type()));
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
  return of_rewards(
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
  return of_rewards(f, (at::log_sigmoid(-d) * e - at::log_sigmoid(d) * (1 - e)) * scale,
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
  return of_rewards(
      f, exponential - log * other,
      (log * share + exponential) * other / f.tau - at::sigmoid(-d) * other - exponential);
}

using Loss = PairLoss (*)(const Formula&, const Tensor&, const Tensor&);

// In the order of DpoLoss.
constexpr Loss losses[] = {sigmoid,  hinge,     ipo,      exo_pair, nca_pair, robust,
                           bco_pair, sppo_hard, apo_zero, apo_down, discopop};

Tensors fused_linear_dpo(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const Formula formula{in["beta"].toDouble(), in["label_smoothing"].toDouble(),
                        in["discopop_tau"].toDouble()};
  const int64_t kind = in["loss_type"].toInt();
  const bool average = in["average_log_prob"].toBool();
  const bool a_token = static_cast<DpoLoss>(kind) == DpoLoss::ipo;
  using Averages = Sequences::Averages;
  const Averages averages = average   ? Averages::log_probs
                            : a_token ? Averages::log_ratios
                                      : Averages::none;
  return loss_of_pairs(in, averages, [&](const Tensor& chosen, const Tensor& rejected) {
    return losses[kind](formula, chosen, rejected);
  });
}

const RegisterComposite registered("fused_linear_dpo", fused_linear_dpo);

}  // namespace
}  // namespace liger::torch_bindings
