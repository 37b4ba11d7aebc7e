// y = x * factor * multiplier, with one factor for all or one for each row, read on the device.
// What is 0 stays 0: an ignored row has no gradient, though a loss divided by no item brings an
// infinite factor. In place a product of 1 costs one read of it.
#pragma once
#include "device/row.h"

namespace liger {

struct ScaleSpec {
  Dtype x;
  bool each_row;
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
      const A scale = factor[S.each_row ? row : 0] * A(multiplier);
      if (!active || (S.in_place && scale == A(1))) return;
      Row::each(thread, [&](int, int pack) {
        const auto v = load_pack<S.width, S.align_bytes, !S.in_place>(x + row * x_stride, pack);
        const auto scaled = map([scale](A one) { return one == A(0) ? one : one * scale; }, v);
        store_pack<S.width, S.align_bytes>(y + row * y_stride, pack, scaled);
      });
    });
  }
};

}  // namespace liger
