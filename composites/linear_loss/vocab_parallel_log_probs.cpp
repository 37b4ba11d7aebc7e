// Log-probabilities and entropies of a linear layer whose classes are spread over ranks. What each
// rank knows of its part is told to all between the two calls.
#include <ATen/ops/cat.h>

#include "composites/linear_loss/log_prob_loss.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

// Of this rank's classes: log-probabilities, or of one rank among several distances; entropies,
// statistics.
Tensors own_numbers(const CompositeCall& in) {
  const LinearLayer layer = layer_of(in);
  const at::Tensor ids = in.tensor("ids").contiguous();
  const auto [numbers, statistics] = known_tokens(in, layer, ids, true);
  return {numbers.log_prob, numbers.entropy, statistics};
}

Tensors part(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const Tensors own = own_numbers(CompositeCall(op, values));
  return {at::cat({own[2], own[0].unsqueeze(1)}, 1)};
}

Tensors forward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  static const Op& merge = op_named("merged_log_probs");
  const CompositeCall in(op, values);
  if (!in.has("parts")) return own_numbers(in);
  return in.run(merge, {{"parts", in.tensor("parts").contiguous()},
                        {"ids", in.tensor("ids").contiguous()},
                        {"classes", in.tensor("weight").size(0)}});
}

Tensors backward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  return gradients_of_numbers(CompositeCall(op, values));
}

const RegisterComposite forward_composite("vocab_parallel_log_probs", forward);
const RegisterComposite part_composite("vocab_parallel_log_probs_part", part);
const RegisterComposite backward_composite("vocab_parallel_log_probs_backward", backward);

}  // namespace
}  // namespace liger::torch_bindings
