#include "engine/tensor.h"

#include <algorithm>

namespace liger {

int64_t Tensor::count() const {
  int64_t product = 1;
  for (int i = 0; i < dims; ++i) product *= sizes[i];
  return product;
}

int64_t Tensor::rows() const {
  int64_t product = 1;
  for (int i = 0; i + 1 < dims; ++i) product *= sizes[i];
  return product;
}

int64_t Tensor::extent() const {
  int64_t last = 0;
  for (int i = 0; i < dims; ++i) {
    if (sizes[i] == 0) return 0;
    last += (sizes[i] - 1) * strides[i];
  }
  return last + 1;
}

bool Tensor::contiguous() const {
  int64_t expected = 1;
  for (int i = dims - 1; i >= 0; --i) {
    if (sizes[i] == 0) return true;
    if (sizes[i] != 1 && strides[i] != expected) return false;
    expected *= sizes[i];
  }
  return true;
}

void Tensor::make_contiguous() {
  int64_t next = 1;
  for (int i = dims - 1; i >= 0; --i) {
    strides[i] = next;
    next *= std::max<int64_t>(sizes[i], 1);
  }
}

int64_t Tensor::row_stride() const {
  if (dims == 0) return 1;
  if (count() == 0) return last_size();
  if (last_size() > 1 && strides[dims - 1] != 1) return -1;
  int64_t stride = -1;  // of the innermost leading dim longer than one
  int64_t expected = 0;
  for (int i = dims - 2; i >= 0; --i) {
    if (sizes[i] == 0) return last_size();
    if (sizes[i] == 1) continue;
    if (stride < 0) {
      stride = expected = strides[i];
    } else if (strides[i] != expected) {
      return -1;
    }
    expected *= sizes[i];
  }
  // A row that repeats (stride 0) is fine to read; a single row has any stride.
  return stride < 0 ? last_size() : stride;
}

int Tensor::row_align_bytes() const {
  int align = align_bytes;
  for (int dim = 0; dim + 1 < dims; ++dim) {
    if (sizes[dim] <= 1) continue;
    while (strides[dim] * size_bytes(dtype) % align != 0) align /= 2;
  }
  return align;
}

bool Tensor::overlaps() const {
  if (count() == 0) return false;
  int64_t reached = 0;  // from the first element on, by the dims within
  bool within[max_dims] = {};
  for (int taken = 0; taken < dims; ++taken) {
    int next = -1;
    for (int dim = 0; dim < dims; ++dim) {
      if (within[dim] || sizes[dim] == 1) continue;
      if (next < 0 || strides[dim] < strides[next]) next = dim;
    }
    if (next < 0) return false;
    if (strides[next] <= reached) return true;
    reached += (sizes[next] - 1) * strides[next];
    within[next] = true;
  }
  return false;
}

}  // namespace liger
