// A tensor as the core sees it: where, of what type, how laid out. It owns nothing.
#pragma once

#include <cstdint>

#include "runtime/compile/dtype.h"

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
  void make_contiguous();  // sets the strides

  // The distance of neighbouring rows, if all leading dims collapse into one; else -1.
  int64_t row_stride() const;

  // What the address of every row is a multiple of, in bytes: 16, 8, 4, 2 or 1.
  int row_align_bytes() const;

  // True if two elements may be one in memory. A few strange strides that keep them apart are
  // taken for such.
  bool overlaps() const;
};

}  // namespace liger
