#include "composites/linear_loss/linear_loss.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

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

void add_product(at::Tensor& sum, const at::Tensor& left, const at::Tensor& right, bool is_first) {
  if (sum.is_meta()) return;  // not every product has a kernel there
  const auto wide = sum.scalar_type();
  if (wide == left.scalar_type()) {
    is_first ? at::mm_out(sum, left, right) : sum.addmm_(left, right);
  } else if (left.is_cuda()) {
    // The product stays in float32: rounded to 16 bits first, the wide sum would gain little.
    is_first ? at::mm_out(sum, left, right, wide) : at::addmm_out(sum, sum, left, right, wide);
  } else {
    is_first ? at::mm_out(sum, left.to(wide), right.to(wide))
             : sum.addmm_(left.to(wide), right.to(wide));
  }
}

}  // namespace liger::torch_bindings
