#include "engine/output_layout.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

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

namespace output_layout {

int dim_of(const Call& call, const std::string& input, int dims, int dim) {
  const int from_first = dim < 0 ? dims + dim : dim;
  if (from_first < 0 || from_first >= dims) {
    call.refuse(input, fmt::format("has {} dimensions", dims),
                fmt::format("{} or more", dim < 0 ? -dim : dim + 1));
  }
  return from_first;
}

void check_dims(const Call& call, const Output& output, int dims) {
  if (dims >= 0 && dims <= max_dims) return;
  throw Error(ErrorKind::invalid_argument,
              fmt::format("liger_jit::{}: output '{}' would have {} dimensions; allowed: up to {}",
                          call.op().name, output.name, dims, max_dims));
}

}  // namespace output_layout

bool has_rows(const Op& op, const Shape& shape) {
  if (shape.is_expanded) return false;
  if (shape.whole()) return op.inputs[op.input_index(shape.of)].layout != Layout::dense;
  // A last size that is a number is that of a few values of each row.
  const bool several = shape.then.size() > 1 || (!shape.of.empty() && !shape.then.empty());
  return several && !shape.then.back().constant();
}

Tensor output_tensor(const Call& call, const Output& output) {
  const auto extents = extents_of<int64_t, CompareNumbers>(
      call, output, [&](std::string_view name) { return extents_of_input(call[name]); });
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
