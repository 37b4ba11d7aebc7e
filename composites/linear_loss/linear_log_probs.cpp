// Log-probabilities and entropies of a linear layer as outputs of their own: what is made of them
// is the caller's, so the backward makes the logits again, or reads those that the forward kept.
#include <ATen/ops/empty.h>

#include "composites/linear_loss/log_prob_loss.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

Tensors forward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const LinearLayer layer = layer_of(in);
  const at::Tensor ids = in.tensor("ids").contiguous();
  const auto options = layer.input.options();
  const auto exact = exact_options(options);
  if (!in["keep_statistics"].toBool()) {
    const TokenNumbers numbers = numbers_of(in, layer, ids, true);
    return {numbers.log_prob, numbers.entropy, or_empty({}, exact), or_empty({}, options)};
  }
  const at::Tensor logits = in["keep_logits"].toBool()
                                ? at::empty({ids.size(0), layer.weight.size(0)}, options)
                                : at::Tensor();
  const auto [numbers, statistics] = known_tokens(in, layer, ids, true, logits);
  return {numbers.log_prob, numbers.entropy, statistics, or_empty(logits, options)};
}

Tensors backward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  return gradients_of_numbers(in, in.tensor("logits"));
}

const RegisterComposite registered("linear_log_probs", forward);
const RegisterComposite registered_backward("linear_log_probs_backward", backward);

}  // namespace
}  // namespace liger::torch_bindings
