// y = x * factor * multiplier, with one factor for all, for each row or for each element, read on
// the device. What is 0 stays 0: an ignored row has no gradient, though a loss divided by no item
// brings an infinite factor. In place a product of 1 costs one read of it.
#pragma once
#include "device/row.h"

namespace liger {

struct ScaleSpec {
  Dtype x;
  bool each_row;
  bool each_element;
  bool in_place;
  int width;
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

template <ScaleSpec S>
struct Scale {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;

  const Type<S.x>* x;
  const A* factor;
  double multiplier;
  Type<S.x>* y;
  long long rows;
  long long x_stride;
  long long y_stride;
  long long turns;  // of a block: groups of rows that it takes one after another

  LIGER_DEVICE void operator()(long long block) const {
    const long long groups = (rows + S.rows - 1) / S.rows;
    for (long long i = block * turns; i < (block + 1) * turns && i < groups; ++i) scale_group(i);
  }

 private:
  LIGER_DEVICE void scale_group(long long group) const {
    each_row<S.threads, S.rows>(group, rows, [&](long long row, int thread, bool active) {
      const A scale = S.each_element ? A(1) : factor[S.each_row ? row : 0] * A(multiplier);
      if (!active || (S.in_place && !S.each_element && scale == A(1))) return;
      Row::each(thread, [&](int, int pack) {
        const auto v = load_pack<S.width, S.align_bytes, !S.in_place>(x + row * x_stride, pack);
        auto factors = filled(scale);
        if constexpr (S.each_element) {
          // Its rows may begin anywhere.
          factors = load_pack<S.width, sizeof(A)>(factor + row * S.width, pack) * A(multiplier);
        }
        const auto scaled =
            map([](A one, A scale) { return one == A(0) ? one : one * scale; }, v, factors);
        store_pack<S.width, S.align_bytes>(y + row * y_stride, pack, scaled);
      });
    });
  }
};

}  // namespace liger
