#include "composites/products.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

namespace liger::torch_bindings {

at::Tensor by_rows(const at::Tensor& tensor) {
  const auto leading = tensor.sizes().slice(0, tensor.dim() - 1);
  return tensor.reshape({c10::multiply_integers(leading), tensor.size(-1)});
}

at::Tensor with_leading_dims_of(const at::Tensor& x, const at::Tensor& matrix) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = matrix.size(1);
  return matrix.view(sizes);
}

at::Tensor product_of(const at::Tensor& left, const at::Tensor& right) {
  at::Tensor result = at::empty({left.size(0), right.size(1)}, left.options());
  at::mm_out(result, left, right);
  return result;
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
