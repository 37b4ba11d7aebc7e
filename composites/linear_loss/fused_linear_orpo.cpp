// Odds ratio preference optimisation (arXiv:2403.07691). With p = exp of a sequence's mean
// log-probability, the loss of a pair is -beta log s(log odds(chosen) - log odds(rejected)),
// odds(p) = p / (1 - p).
#include <ATen/TensorOperators.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/sigmoid.h>

#include "composites/linear_loss/preference.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

using at::Tensor;

// A p that rounds to one has the odds of the largest number below: they are infinite else, and so
// is the loss of two of them.
Tensor below_one(const Tensor& log_p) {
  return log_p.clamp_max(log_p.scalar_type() == at::kDouble ? -0x1p-53 : -0x1p-24);
}

struct OddsRatio {
  explicit OddsRatio(const Tensor& chosen, const Tensor& rejected)
      : c(below_one(chosen)), r(below_one(rejected)) {
    log = c - r - (at::expm1(c).neg().log() - at::expm1(r).neg().log());
  }
  Tensor c, r, log;
};

PairLoss of_pair(double beta, const Tensor& chosen, const Tensor& rejected) {
  const OddsRatio odds(chosen, rejected);
  const Tensor slope = at::sigmoid(-odds.log) * beta;
  // d log odds / d log p = 1 / (1 - p)
  return {at::log_sigmoid(odds.log) * -beta, slope / at::expm1(odds.c), -slope / at::expm1(odds.r)};
}

Tensors metrics(const Tensor& chosen, const Tensor& rejected) {
  const OddsRatio odds(chosen, rejected);
  return {at::log_sigmoid(odds.log).mean(), odds.log.mean()};
}

Tensors fused_linear_orpo(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const double beta = in["beta"].toDouble();
  return loss_of_pairs(
      in, Sequences::Averages::log_probs,
      [&](const Tensor& chosen, const Tensor& rejected) { return of_pair(beta, chosen, rejected); },
      metrics);
}

const RegisterComposite registered("fused_linear_orpo", fused_linear_orpo);

}  // namespace
}  // namespace liger::torch_bindings
