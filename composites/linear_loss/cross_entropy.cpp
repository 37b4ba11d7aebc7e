#include "composites/linear_loss/cross_entropy.h"

#include <ATen/ops/empty.h>

namespace liger::torch_bindings {

Results results_of(const CompositeCall& in, const at::Tensor& input, const Wanted& wanted) {
  Results results;
  if (!wanted.loss) return results;
  const at::TensorOptions exact = exact_options(input.options());
  const int64_t tokens = input.size(0);
  results.row_loss = at::empty({tokens}, exact);
  results.row_z_loss = at::empty({tokens}, exact);
  if (in["want_accuracy"].toBool() || in["want_predicted"].toBool()) {
    results.predicted = at::empty({tokens}, exact.dtype(at::kLong));
  }
  return results;
}

}  // namespace liger::torch_bindings
