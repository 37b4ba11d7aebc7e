#include "ops/output_layout.h"

#include <algorithm>

namespace liger {

namespace {

Extents<int64_t> extents_of_input(const Tensor& tensor) {
  Extents<int64_t> result;
  result.dims = tensor.dims;
  std::copy(tensor.sizes, tensor.sizes + tensor.dims, result.sizes);
  std::copy(tensor.strides, tensor.strides + tensor.dims, result.strides);
  return result;
}

}  // namespace

bool has_rows(const Op& op, const Shape& shape) {
  if (shape.kind != Shape::Kind::like && shape.kind != Shape::Kind::preserve) return false;
  return op.inputs[op.input_index(shape.of)].layout != Layout::dense;
}

Tensor output_tensor(const Call& call, const Output& output) {
  const auto extents = extents_of<int64_t, CompareNumbers>(
      output.shape(call), [&](std::string_view name) { return extents_of_input(call[name]); });
  Tensor tensor;
  tensor.defined = true;
  tensor.dtype = output.dtype(call);
  tensor.dims = extents.dims;
  std::copy(extents.sizes, extents.sizes + extents.dims, tensor.sizes);
  if (extents.contiguous) {
    tensor.make_contiguous();
  } else {
    std::copy(extents.strides, extents.strides + extents.dims, tensor.strides);
  }
  return tensor;
}

}  // namespace liger
