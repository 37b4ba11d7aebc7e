// How the outputs of a call lie in memory. One rule for all who need to know: plans, meta tensors
// whose sizes are symbols, kernel arguments, and the alignment that a template may assume.
#pragma once

#include <cstdint>
#include <utility>

#include "engine/op.h"

namespace liger {

// Sizes and strides in elements, as int64_t or as a tracer's symbols.
template <class Int>
struct Extents {
  int dims = 0;
  Int sizes[max_dims] = {};
  bool contiguous = true;
  Int strides[max_dims] = {};  // means nothing where `contiguous`
};

// Of symbols only what is certain counts, so a tracer has its own.
struct CompareNumbers {
  static bool above(int64_t a, int64_t b) { return a > b; }
  static bool equal(int64_t a, int64_t b) { return a == b; }
};

namespace output_layout {

// Puts the leading dims into the order in which they lie in memory, from the outermost in. The last
// dim stays the innermost, because kernels write rows in one piece; dims of one element, and those
// that repeat one (stride 0), stay where they stand.
template <class Int, class Compare>
void sort_by_memory(const Extents<Int>& of, int (&order)[max_dims]) {
  int places[max_dims];
  int dims[max_dims];
  int count = 0;
  for (int dim = 0; dim < of.dims; ++dim) {
    order[dim] = dim;
    if (dim + 1 == of.dims || Compare::equal(of.sizes[dim], 1) ||
        Compare::equal(of.strides[dim], 0))
      continue;
    places[count] = dim;
    int at = count++;
    for (; at > 0 && Compare::above(of.strides[dim], of.strides[dims[at - 1]]); --at)
      dims[at] = dims[at - 1];
    dims[at] = dim;
  }
  for (int i = 0; i < count; ++i) order[places[i]] = dims[i];
}

// Dense, with the dims of `of` in their order. What a kernel cannot read where it is was copied
// first, and the copy is contiguous.
template <class Int, class Compare>
Extents<Int> preserved(const Extents<Int>& of) {
  Extents<Int> result = of;
  result.contiguous = of.dims == 0 || !Compare::equal(of.strides[of.dims - 1], 1);
  for (int dim = 0; dim < of.dims; ++dim) result.contiguous |= Compare::equal(of.sizes[dim], 0);
  if (result.contiguous) return result;
  int order[max_dims];
  sort_by_memory<Int, Compare>(of, order);
  Int next = 1;
  for (int i = of.dims - 1; i >= 0; --i) {
    result.strides[order[i]] = next;
    next = next * of.sizes[order[i]];
  }
  return result;
}

}  // namespace output_layout

// What declarations may ask of shapes that they have not checked: raise Error(invalid_argument).
namespace output_layout {
int dim_of(const Call& call, const std::string& input, int dims, int dim);  // from 0 on
void check_dims(const Call& call, const Output& output, int dims);
}  // namespace output_layout

// Of an output; `input(name)` gives the Extents of a tensor input.
template <class Int, class Compare, class InputOf>
Extents<Int> extents_of(const Call& call, const Output& output, InputOf&& input) {
  const Shape shape = output.shape(call);
  Extents<Int> result;
  if (!shape.of.empty()) result = input(shape.of);
  if (shape.in_order) return output_layout::preserved<Int, Compare>(result);
  if (shape.is_expanded) {
    result.contiguous = false;
    for (int dim = 0; dim < result.dims; ++dim) result.strides[dim] = 0;
    return result;
  }
  result.contiguous = true;
  result.dims -= shape.but;
  output_layout::check_dims(call, output, result.dims + static_cast<int>(shape.then.size()));
  for (const Size& size : shape.then) {
    result.sizes[result.dims++] =
        size.template value<Int>([&](const std::string& name, int dim) -> Int {
          const Extents<Int> of = input(name);
          return of.sizes[output_layout::dim_of(call, name, of.dims, dim)];
        });
  }
  return result;
}

// Whether kernels write rows of it, and not single values or a vector of columns.
bool has_rows(const Op& op, const Shape& shape);

// As it will be allocated; `empty()` is one of size 0.
Tensor output_tensor(const Call& call, const Output& output);

}  // namespace liger
