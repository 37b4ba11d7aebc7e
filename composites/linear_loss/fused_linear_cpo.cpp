// Contrastive preference optimisation (arXiv:2401.08417): no reference model, and the negative
// log-likelihood beside it.
#include "composites/linear_loss/preference.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

Tensors fused_linear_cpo(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const auto averages =
      in["average_log_prob"].toBool() ? Sequences::Averages::log_probs : Sequences::Averages::none;
  return loss_of_pairs(in, averages, [&](const at::Tensor& chosen, const at::Tensor& rejected) {
    return logistic(in["beta"].toDouble(), 0.0, in["label_smoothing"].toDouble(), chosen, rejected);
  });
}

const RegisterComposite registered("fused_linear_cpo", fused_linear_cpo);

}  // namespace
}  // namespace liger::torch_bindings
