// Matrix products of composites, in memory that the caller chooses.
#pragma once

#include <ATen/core/Tensor.h>

namespace liger::torch_bindings {

// As a matrix; the leading dims are joined.
at::Tensor by_rows(const at::Tensor& tensor);

// The matrix with the leading dims of x again.
at::Tensor with_leading_dims_of(const at::Tensor& x, const at::Tensor& matrix);

// Into memory of its own: under autocast, which a backward may be called in, `mm` would cast.
at::Tensor product_of(const at::Tensor& left, const at::Tensor& right);

// sum = left @ right, or sum += left @ right; the sum may be of a wider type.
void add_product(at::Tensor& sum, const at::Tensor& left, const at::Tensor& right, bool is_first);

}  // namespace liger::torch_bindings
