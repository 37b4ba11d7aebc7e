#include "composites/linear_loss/linear_loss.h"

#include <ATen/ops/empty.h>

namespace liger::torch_bindings {

at::TensorOptions exact_options(const at::TensorOptions& options) {
  return options.dtype(options.dtype() == at::kDouble ? at::kDouble : at::kFloat);
}

Results results_of(const CompositeCall& in, const at::Tensor& input, const Wanted& wanted) {
  Results results;
  const at::TensorOptions exact = exact_options(input.options());
  const int64_t tokens = input.size(0);
  if (wanted.loss) {
    results.row_loss = at::empty({tokens}, exact);
    results.row_z_loss = at::empty({tokens}, exact);
    if (in["want_accuracy"].toBool() || in["want_predicted"].toBool()) {
      results.predicted = at::empty({tokens}, exact.dtype(at::kLong));
    }
  }
  if (wanted.dinput) results.dinput = at::empty(input.sizes(), input.options());
  return results;
}

}  // namespace liger::torch_bindings
