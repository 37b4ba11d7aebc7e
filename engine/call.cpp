#include "engine/call.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "base/text.h"
#include "engine/op.h"
#include "engine/output_layout.h"

namespace liger {

Place place_on(const Target& target, int ordinal, int multiprocessors) {
  return {target.backend, ordinal, multiprocessors, compute_capability(target)};
}

Call::Call(const Op& op, Place place)
    : op_(&op),
      place_(place),
      tensors_(op.inputs.size()),
      scalars_(op.inputs.size(), Scalar{.integer = 0}) {}

int Call::index(std::string_view name) const {
  const int found = op_->input_index(name);
  if (found < 0) {
    std::fprintf(stderr, "liger_jit: op %s declares no input %.*s\n", op_->name.c_str(),
                 static_cast<int>(name.size()), name.data());
    std::abort();
  }
  return found;
}

int Call::align_bytes() const {
  if (on_host()) return 2;  // means nothing there, and one unit then serves every alignment
  int align = 16;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    if (!tensor.defined || !is_float(tensor.dtype)) continue;
    if (op_->inputs[i].layout == Layout::unread) continue;
    if (op_->inputs[i].layout == Layout::dense && tensor.count() == 1) continue;  // one number
    // What a kernel reads of a dense tensor is a vector of a row's columns, or one value a row.
    const bool dense = op_->inputs[i].layout == Layout::dense;
    align = std::min(align, dense ? tensor.align_bytes : tensor.row_align_bytes());
  }
  for (const Output& output : op_->outputs) {
    if (!has_rows(*op_, output.shape(*this))) continue;
    const Tensor tensor = output_tensor(*this, output);
    if (is_float(tensor.dtype)) align = std::min(align, tensor.row_align_bytes());
  }
  return align;
}

Call Call::with_rows(int64_t rows) const {
  Call smaller = *this;
  int64_t of_call = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (tensors_[i].defined && op_->inputs[i].layout == Layout::rows) {
      of_call = tensors_[i].rows();
      break;
    }
  }
  if (of_call <= rows) return smaller;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    Tensor& tensor = smaller.tensors_[i];
    if (!tensor.defined || op_->inputs[i].layout == Layout::strided) continue;
    if (op_->inputs[i].layout == Layout::rows && tensor.rows() == of_call && tensor.dims > 1) {
      const int64_t stride = tensor.row_stride();
      const int64_t last = tensor.last_size();
      tensor.dims = 2;
      tensor.sizes[0] = rows;
      tensor.sizes[1] = last;
      tensor.strides[0] = stride;
      tensor.strides[1] = 1;
    }
  }
  return smaller;
}

void Call::refuse(std::string_view argument, const std::string& what,
                  const std::string& allowed) const {
  throw Error(
      ErrorKind::invalid_argument,
      fmt::format("liger_jit::{}: argument '{}' {}; allowed: {}",
                  op_->part_of.empty() ? op_->name : op_->part_of, argument, what, allowed));
}

std::string shape_text(const Tensor& tensor) {
  if (!tensor.defined) return "None";
  std::vector<int64_t> sizes(tensor.sizes, tensor.sizes + tensor.dims);
  return fmt::format("[{}] {}", fmt::join(sizes, ", "), name_of(tensor.dtype));
}

}  // namespace liger
