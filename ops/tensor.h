// A tensor as the core sees it: where, of what type, how laid out. It owns nothing.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/dtype.h"

namespace liger {

constexpr int max_dims = 5;

struct Tensor {
  bool defined = false;
  Dtype dtype = Dtype::f32;
  int dims = 0;
  int align_bytes = 16;  // of the data pointer, at most 16
  int64_t sizes[max_dims] = {};
  int64_t strides[max_dims] = {};  // in elements

  int64_t count() const;
  int64_t last_size() const { return dims == 0 ? 1 : sizes[dims - 1]; }
  int64_t rows() const;    // product of all sizes but the last
  int64_t extent() const;  // elements from the first to the last one reached, 0 when empty
  bool contiguous() const;

  // The distance of neighbouring rows, if all leading dims collapse into one; else -1.
  int64_t row_stride() const;
};

// Strides of a dense tensor of the same sizes whose dims lie in memory in the same order.
std::array<int64_t, max_dims> preserved_strides(const Tensor& tensor);

}  // namespace liger
