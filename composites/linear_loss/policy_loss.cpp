// The loss of a policy whose log-probabilities are given.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "composites/linear_loss/linear_loss.h"
#include "composites/linear_loss/policy_batch.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

Tensors forward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const at::Tensor log_probs = in.tensor("log_probs").contiguous();
  const bool reduce = in["reduce"].toBool();
  const PolicyBatch batch = PolicyBatch::of(in, reduce);
  const bool shared = in["importance_sampling_level"].toInt() != 0;
  const auto exact = log_probs.options().dtype(at::kDouble);
  const auto room = [&](bool wanted) {
    return wanted ? at::empty(log_probs.sizes(), exact) : at::Tensor();
  };
  const bool kept = in["keep_slopes"].toBool();
  const PolicySlopes slopes{.own = room(kept), .shared = room(kept && shared)};
  const PolicyNumbers made = PolicyNumbers::room_for(reduce ? batch.advantages : log_probs);
  policy_step(in, batch, log_probs, made, slopes);
  const at::Tensor tokens = batch.tokens_counted();
  const auto output = [&](const at::Tensor& made) { return made.to(log_probs.scalar_type()); };
  return {output(reduce ? made.loss.sum() : made.loss),
          output(reduce ? made.kl.sum() / tokens : made.kl),
          output(reduce ? made.clipped.sum() / tokens : made.clipped), or_empty(slopes.own, exact),
          or_empty(slopes.shared, exact)};
}

Tensors backward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const at::Tensor dloss = in.tensor("dloss"), slope = in.tensor("slope").contiguous();
  if (!in["output_mask"].toBoolList()[0]) return {at::empty({0}, dloss.options())};
  const at::Tensor exact = dloss.to(at::kDouble);
  const bool shared = in["importance_sampling_level"].toInt() != 0;
  return {
      policy_gradient({exact * slope, shared ? exact * in.tensor("shared_slope") : at::Tensor()},
                      in.tensor("token_mask").to(at::kDouble))
          .to(dloss.scalar_type())
          .contiguous()};
}

const RegisterComposite forward_composite("policy_loss", forward);
const RegisterComposite backward_composite("policy_loss_backward", backward);

}  // namespace
}  // namespace liger::torch_bindings
