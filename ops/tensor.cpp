#include "ops/tensor.h"

#include <algorithm>
#include <numeric>

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

std::array<int64_t, max_dims> preserved_strides(const Tensor& tensor) {
  std::array<int, max_dims> order{};
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.begin() + tensor.dims, [&](int a, int b) {
    // A dim of one element may have any stride: it stays where it stands.
    if (tensor.sizes[a] == 1 || tensor.sizes[b] == 1) return false;
    return tensor.strides[a] > tensor.strides[b];
  });
  std::array<int64_t, max_dims> strides{};
  int64_t next = 1;
  for (int i = tensor.dims - 1; i >= 0; --i) {
    strides[order[i]] = next;
    next *= std::max<int64_t>(tensor.sizes[order[i]], 1);
  }
  return strides;
}

}  // namespace liger
