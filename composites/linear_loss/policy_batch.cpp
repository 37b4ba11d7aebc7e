#include "composites/linear_loss/policy_batch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "composites/linear_loss/linear_loss.h"
#include "engine/registry.h"
#include "ops/linear_loss/policy_loss.h"

namespace liger::torch_bindings {
namespace {

at::Tensor length_of(const at::Tensor& mask) { return mask.sum(-1, /*keepdim=*/true).clamp_min(1); }

// What each token's loss counts in the loss of all.
at::Tensor weights(const CompositeCall& in, const at::Tensor& mask) {
  const auto sequences = static_cast<double>(mask.size(0));
  const auto length = static_cast<double>(mask.size(1));
  const int64_t most = in["max_completion_length"].toInt();
  switch (static_cast<PolicyLossType>(in["loss_type"].toInt())) {
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

void run_step(const CompositeCall& in, const PolicyBatch& batch, const at::Tensor& log_probs,
              const PolicyNumbers& numbers, const PolicySlopes& slopes, bool derivative,
              double unit) {
  static const Op& step = op_named("policy_step_");
  in.run(step, {{"log_probs", log_probs.contiguous()},
                {"token_mask", batch.mask},
                {"weight", batch.weight},
                {"advantages", batch.advantages},
                {"ref_log_probs", batch.ref},
                {"old_log_probs", batch.old},
                {"importance_ratio", batch.ratio},
                {"loss", numbers.loss},
                {"kl", numbers.kl},
                {"clipped", numbers.clipped},
                {"slope", slopes.own},
                {"shared_slope", slopes.shared},
                {"sums", numbers.loss.dim() == 1},
                {"derivative", derivative},
                {"unit", unit}});
}

// The same of all tensors that there are.
template <class Change>
PolicyBatch changed(PolicyBatch batch, Change change) {
  for (at::Tensor* const each :
       {&batch.mask, &batch.weight, &batch.advantages, &batch.ref, &batch.old, &batch.ratio})
    if (each->defined()) *each = change(*each);
  return batch;
}

}  // namespace

PolicyBatch PolicyBatch::of(const CompositeCall& in, bool reduce) {
  const auto exact = [&](std::string_view name) {
    const at::Tensor tensor = in.tensor(name);
    return tensor.defined() ? tensor.to(at::kDouble).contiguous() : tensor;
  };
  const at::Tensor mask = exact("token_mask");
  return {.mask = mask,
          .weight = reduce ? weights(in, mask).contiguous() : mask,
          .advantages = exact("advantages"),
          .ref = exact("ref_log_probs"),
          .old = exact("old_log_probs"),
          .ratio = exact("importance_ratio")};
}

at::Tensor PolicyBatch::counted() const { return mask.ne(0).logical_or_(weight.ne(0)); }
at::Tensor PolicyBatch::tokens_counted() const { return mask.sum().clamp_min(1); }

PolicyBatch PolicyBatch::sequences(int64_t first, int64_t count) const {
  return changed(*this, [&](const at::Tensor& all) { return all.narrow(0, first, count); });
}

PolicyBatch PolicyBatch::tokens() const {
  PolicyBatch batch = *this;
  batch.advantages = advantages.unsqueeze(1);
  batch = changed(std::move(batch), [&](const at::Tensor& all) {
    return all.expand_as(mask).reshape({-1, 1});
  });
  batch.advantages = batch.advantages.view(-1);
  return batch;
}

PolicyBatch PolicyBatch::of_kept(const KeptTokens& kept) const {
  return changed(*this, [&](const at::Tensor& all) { return kept.numbers(all, 0); });
}

PolicyNumbers PolicyNumbers::room_for(const at::Tensor& like) {
  const auto room = [&] { return at::empty(like.sizes(), like.options().dtype(at::kDouble)); };
  return {room(), room(), room()};
}

PolicyNumbers PolicyNumbers::sequences(int64_t first, int64_t count) const {
  return {rows_of(loss, first, count), rows_of(kl, first, count), rows_of(clipped, first, count)};
}

void policy_step(const CompositeCall& in, const PolicyBatch& batch, const at::Tensor& log_probs,
                 const PolicyNumbers& numbers, const PolicySlopes& slopes) {
  run_step(in, batch, log_probs, numbers, slopes, /*derivative=*/false, 1.0);
}

at::Tensor policy_derivative(const CompositeCall& in, const PolicyBatch& batch,
                             const at::Tensor& log_probs, const PolicyNumbers& numbers,
                             double unit) {
  const at::Tensor derivative = at::empty_like(log_probs, at::MemoryFormat::Contiguous);
  run_step(in, batch, log_probs, numbers, {.own = derivative, .shared = {}}, /*derivative=*/true,
           unit);
  return derivative;
}

at::Tensor policy_gradient(const PolicySlopes& slopes, const at::Tensor& mask) {
  if (!slopes.shared.defined()) return slopes.own;
  const at::Tensor share = mask / length_of(mask);
  return slopes.own + slopes.shared.sum(-1, /*keepdim=*/true) * share;
}

}  // namespace liger::torch_bindings
