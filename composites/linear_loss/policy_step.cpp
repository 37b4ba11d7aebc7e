#include "composites/linear_loss/policy_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/full.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "composites/linear_loss/linear_loss.h"
#include "engine/registry.h"
#include "ops/linear_loss/policy_loss.h"

namespace liger::torch_bindings {
namespace {

// Of one objective, by the ratio: [B, T], or [B, 1] where a sequence has one.
struct Surrogate {
  at::Tensor loss;
  at::Tensor slope;    // by the logarithm of the ratio
  at::Tensor clipped;  // bool; undefined: never
};

at::Tensor by_sign(const at::Tensor& positive, double yes, double no,
                   const at::TensorOptions& options) {
  return at::where(positive, at::full({}, yes, options), at::full({}, no, options));
}

PolicyLossType loss_type(const CompositeCall& in) {
  return static_cast<PolicyLossType>(in["loss_type"].toInt());
}

at::Tensor length_of(const at::Tensor& mask) { return mask.sum(-1, /*keepdim=*/true).clamp_min(1); }

class Step {
 public:
  Step(const CompositeCall& in, const PolicyBatch& batch, const at::Tensor& log_probs)
      : in_(in), batch_(batch), log_probs_(log_probs.to(at::kDouble)) {
    shared_ = in["importance_sampling_level"].toInt() != 0;
    log_ratio_ = behind(batch.old).neg_();
    ratio_ = shared_ ? ((log_ratio_ * batch.mask).sum(-1, true) / length_of(batch.mask)).exp()
                     : log_ratio_.exp();
  }

  PolicyStep run() {
    Surrogate made = surrogate();
    const bool in_weight = loss_type(in_) == PolicyLossType::vespo;
    if (batch_.ratio.defined() && !in_weight) {
      made.loss = made.loss * batch_.ratio;
      made.slope = made.slope * batch_.ratio;
    }
    at::Tensor kl = at::zeros_like(log_probs_), own = kl;
    if (const double beta = number("beta"); beta != 0.0) {
      const at::Tensor difference = behind(batch_.ref), growth = at::expm1(difference);
      kl = growth - difference;
      own = growth * -beta;
      if (in_["bias_corrected_kl"].toBool()) {
        kl = kl * ratio_;
        own = own * ratio_;
        made.slope = made.slope + beta * kl;
      }
      made.loss = made.loss + beta * kl;
    }
    PolicyStep step{.loss = counted(made.loss * batch_.weight),
                    .kl = counted(kl),
                    .clipped = made.clipped.defined() ? counted(made.clipped.to(at::kDouble))
                                                      : at::zeros_like(log_probs_),
                    .slope = counted((shared_ ? own : made.slope + own) * batch_.weight),
                    .shared_slope = {}};
    if (shared_) step.shared_slope = counted(made.slope * batch_.weight);
    return step;
  }

 private:
  double number(std::string_view option) const { return in_[option].toDouble(); }
  at::Tensor counted(const at::Tensor& values) const {
    return at::where(batch_.counted, values, 0.0);
  }

  // How far the policy is behind another; one that is not given is the policy itself.
  at::Tensor behind(const at::Tensor& other) const {
    return other.defined() ? counted(other - log_probs_) : at::zeros_like(log_probs_);
  }

  Surrogate surrogate() const {
    switch (loss_type(in_)) {
      case PolicyLossType::cispo:
        return cispo();
      case PolicyLossType::sapo:
        return sapo();
      case PolicyLossType::vespo:
        return vespo();
      default:
        return clip();
    }
  }

  Surrogate clip() const {
    const at::Tensor& a = batch_.advantages;
    const double low = 1 - number("epsilon_low"), high = 1 + number("epsilon_high");
    const double delta = number("delta");
    const at::Tensor below = ratio_<low, above = ratio_> high;
    const at::Tensor free = (delta > 0 ? ratio_.clamp_max(delta) : ratio_) * a;
    const at::Tensor bounded = at::clamp(ratio_, low, high) * a;
    // Where both are the same the ratio is the one of both.
    at::Tensor held = (bounded < free).logical_and_(below.logical_or(above));
    if (delta > 0) held = held.logical_or((ratio_ > delta).logical_and_(free <= bounded));
    return {.loss = -at::minimum(free, bounded),
            .slope = at::where(held, 0.0, ratio_ * -a),
            .clipped = below.logical_and(a < 0).logical_or_(above.logical_and(a > 0))};
  }

  Surrogate cispo() const {
    const double high = number("epsilon_high");
    const at::Tensor slope = ratio_.clamp_max(high) * -batch_.advantages;
    return {.loss = slope * log_probs_,
            .slope = slope,
            .clipped = (ratio_ > high).logical_and_(batch_.advantages > 0)};
  }

  Surrogate sapo() const {
    const at::Tensor& a = batch_.advantages;
    const at::Tensor t = by_sign(a > 0, number("sapo_temperature_pos"),
                                 number("sapo_temperature_neg"), log_probs_.options());
    const at::Tensor ahead = t * (ratio_ - 1);
    const at::Tensor gate = ahead.sigmoid();
    return {.loss = gate * (a * -4 / t),
            .slope = gate * (-ahead).sigmoid() * ratio_ * (a * -4),
            .clipped = {}};
  }

  Surrogate vespo() const {
    const at::Tensor& a = batch_.advantages;
    const auto options = log_probs_.options();
    const double least = std::log(1e-8), most = 20;
    at::Tensor log_w = (log_ratio_.clamp(-most, most) * batch_.mask).sum(-1, true);
    if (batch_.ratio.defined()) log_w = log_w + batch_.ratio.log().clamp(least, most).sum(-1, true);
    log_w = log_w.clamp(least, most);
    const at::Tensor good = a >= 0;
    const at::Tensor k = by_sign(good, number("vespo_k_pos"), number("vespo_k_neg"), options);
    const at::Tensor rate =
        by_sign(good, number("vespo_lambda_pos"), number("vespo_lambda_neg"), options)
            .clamp_min(1e-4);
    const at::Tensor phi = (k * log_w - rate * log_w.expm1()).exp().nan_to_num(0.0, 0.0, 0.0);
    const at::Tensor slope = (phi * -a).expand_as(log_probs_);
    return {.loss = slope * log_probs_, .slope = slope, .clipped = {}};
  }

  const CompositeCall& in_;
  const PolicyBatch& batch_;
  const at::Tensor log_probs_;
  bool shared_;
  at::Tensor log_ratio_, ratio_;
};

// What each token's loss counts in the loss of all.
at::Tensor weights(const CompositeCall& in, const at::Tensor& mask) {
  const auto sequences = static_cast<double>(mask.size(0));
  const auto length = static_cast<double>(mask.size(1));
  const int64_t most = in["max_completion_length"].toInt();
  switch (loss_type(in)) {
    case PolicyLossType::grpo:
    case PolicyLossType::sapo:
      return mask / (length_of(mask) * sequences);
    case PolicyLossType::dr_grpo:
      return mask / (sequences * (most > 0 ? static_cast<double>(most) : length));
    case PolicyLossType::luspo:
      return (mask.sum(-1, /*keepdim=*/true) / (sequences * length)).expand_as(mask);
    default:
      break;
  }
  const at::Tensor items =
      in.has("num_items") ? in.tensor("num_items").to(at::kDouble) : mask.sum();
  return mask / items.clamp_min(1);
}

}  // namespace

PolicyBatch PolicyBatch::of(const CompositeCall& in, bool reduce) {
  const auto exact = [&](std::string_view name) {
    const at::Tensor tensor = in.tensor(name);
    return tensor.defined() ? tensor.to(at::kDouble).contiguous() : tensor;
  };
  const at::Tensor mask = exact("token_mask");
  const at::Tensor weight = reduce ? weights(in, mask) : mask;
  return {.mask = mask,
          .weight = weight,
          .counted = mask.ne(0).logical_or_(weight.ne(0)),
          .advantages = exact("advantages").unsqueeze(1),
          .ref = exact("ref_log_probs"),
          .old = exact("old_log_probs"),
          .ratio = exact("importance_ratio")};
}

at::Tensor PolicyBatch::tokens_counted() const { return mask.sum().clamp_min(1); }

namespace {

template <class Change>
PolicyBatch changed(PolicyBatch batch, Change change) {
  for (at::Tensor* const each : {&batch.mask, &batch.weight, &batch.counted, &batch.advantages,
                                 &batch.ref, &batch.old, &batch.ratio})
    if (each->defined()) *each = change(*each);
  return batch;
}

}  // namespace

PolicyBatch PolicyBatch::sequences(int64_t first, int64_t count) const {
  return changed(*this, [&](const at::Tensor& all) { return all.narrow(0, first, count); });
}

PolicyBatch PolicyBatch::tokens() const {
  return changed(*this, [&](const at::Tensor& all) {
    return all.expand_as(mask).reshape({-1, 1});
  });
}

PolicyBatch PolicyBatch::of_kept(const KeptTokens& kept) const {
  return changed(*this, [&](const at::Tensor& all) { return kept.numbers(all, 0); });
}

PolicyStep policy_step(const CompositeCall& in, const PolicyBatch& batch,
                       const at::Tensor& log_probs) {
  return Step(in, batch, log_probs).run();
}

at::Tensor policy_gradient(const at::Tensor& slope, const at::Tensor& shared_slope,
                           const at::Tensor& mask) {
  if (!shared_slope.defined()) return slope;
  const at::Tensor share = mask / length_of(mask);
  return slope + shared_slope.sum(-1, /*keepdim=*/true) * share;
}

}  // namespace liger::torch_bindings
