// What ops over rows share in their declarations: how many threads take a row, and how rows are
// checked.
#pragma once

#include "engine/op.h"

namespace liger {

// The lowest power of two that is not below n.
int64_t power_of_two_from(int64_t n);

// Packs of eight elements of a row, the last one perhaps short.
int64_t packs_of(int64_t size);

// True if a block keeps a row of that length in registers, `arrays` times; of that many elements.
bool holds(const Call& call, int64_t size, int arrays);
bool holds(const Call& call, std::string_view tensor, int arrays);

// Candidates {threads, rows} for a row of `size` elements of which a thread keeps `arrays` copies
// in registers (0: it keeps none). On the host {threads = 1, rows}.
std::vector<Knobs> row_candidates(const Call& call, int64_t size, int arrays);

// The same for sums over rows: on the host one partial a block.
std::vector<Knobs> partial_candidates(const Call& call, int64_t size, int arrays);

// ceil(rows / rows of a block).
int64_t row_blocks(int64_t rows, const Knobs& knobs);

// Number of partial sums of a norm's backward: fixed by the rows, their length and the device,
// never by what the tuner picks, because it fixes the order of the sum.
int64_t partial_rows(const Call& call, int64_t rows, int64_t size);

// Elements in memory of a row that starts and ends with whole packs, as partials do.
int64_t padded_columns(int64_t size);

// float32, or float64 for float64: what kernels compute in.
Dtype arithmetic(Dtype dtype);

// A matrix of partials and the output that is their sum.
struct Partials {
  std::string partials;
  std::string out;
  std::function<Dtype(const Call&)> out_dtype;
  std::function<int64_t(const Call&)> columns = {};  // 0: not wanted; empty: a row's of `sized_by`
};

// Adds the partials of up to three matrices. `partials_of` is how many there are of each; empty:
// partial_rows() of `sized_by`.
KernelOf column_sum(std::vector<Partials> matrices, std::string sized_by,
                    std::function<bool(const Call&)> when,
                    std::function<int64_t(const Call&)> partials_of = {});

// Checks used by several ops. Each raises Error(invalid_argument).
void require_same_shape(const Call& call, std::string_view first, std::string_view second);
void require_same_dtype(const Call& call, std::string_view first, std::string_view second);
// Both are computed in float32, or both in float64.
void require_same_arithmetic(const Call& call, std::string_view first, std::string_view second);
void require_vector(const Call& call, std::string_view vector,
                    std::string_view of);                        // length of last dim
void require_number(const Call& call, std::string_view tensor);  // one element, of any shape
void require_eps(const Call& call);                              // `eps` is 0 or more
void require_dims(const Call& call, std::string_view tensor, int dims, std::string_view meaning);

}  // namespace liger
