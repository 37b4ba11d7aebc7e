// Simple preference optimisation (arXiv:2405.14734): log-probabilities a token, no reference model,
// and a margin that the chosen sequence is to be ahead by.
#include "composites/linear_loss/preference.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

Tensors fused_linear_simpo(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  return loss_of_pairs(in, Sequences::Averages::log_probs,
                       [&](const at::Tensor& chosen, const at::Tensor& rejected) {
                         return logistic(in["beta"].toDouble(), in["gamma"].toDouble(),
                                         in["label_smoothing"].toDouble(), chosen, rejected);
                       });
}

const RegisterComposite registered("fused_linear_simpo", fused_linear_simpo);

}  // namespace
}  // namespace liger::torch_bindings
