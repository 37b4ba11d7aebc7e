// y = x * rsqrt(mean(x^2) + eps) * (offset + weight), over the last dimension.
#pragma once
#include "device/rms_row.h"
#include "device/weight_gradient.h"

namespace liger {

struct RmsNormForwardSpec {
  Dtype x;
  Dtype weight;
  Dtype y;
  bool has_weight;
  bool round_early;  // Llama: round the normalised row to x's type before the weight
  int hidden;        // exact length of a row
  int align_bytes;   // of every pointer and row
  bool hold;         // the row fits in registers
  int threads;       // tuned; of one row
  int rows;          // tuned; of one block
};

template <RmsNormForwardSpec S>
struct RmsNormForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.x>>;
  using Norm = RmsRow<Row, S.hidden, S.align_bytes, S.has_weight, S.round_early, Type<S.x>>;

  const Type<S.x>* x;
  const Type<S.weight>* weight;
  Type<S.y>* y;
  A* rstd;  // null: not kept
  long long rows;
  long long x_stride;
  double eps;
  double offset;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const Share values(x + row * x_stride, thread);
      const A r =
          Norm::rstd(thread, eps, [&](int slot, int pack) { return values.at(slot, pack); });
      if (!active) return;
      Row::each(thread, [&](int slot, int pack) {
        const auto v = Norm::rounded(values.at(slot, pack) * r);
        store_pack<S.hidden, S.align_bytes>(y + row * S.hidden, pack,
                                            Norm::weighted(v, weight, pack, offset));
      });
      if (thread == 0 && rstd) rstd[row] = r;
    });
  }
};

struct RmsNormBackwardSpec {
  Dtype x;
  Dtype weight;
  Dtype dy;
  bool has_weight;
  bool round_early;
  bool adds_dsum;  // the gradient that arrives at the sum of a residual is added to dx
  bool want_dx;
  bool want_dweight;
  int hidden;
  int align_bytes;
  bool hold;
  int threads;  // tuned
  int rows;     // tuned; partials of one block
};

// dx = rstd * (m - xhat * mean(m * xhat)) with m = dy * (offset + weight), and partial sums of
// dy * xhat for the weight.
template <RmsNormBackwardSpec S>
struct RmsNormBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using ShareX = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.x>>;
  using ShareDy = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.dy>>;
  using ShareDsum = RowShare<Row, S.hidden, S.align_bytes, S.hold && S.adds_dsum, Type<S.x>>;
  using Sums = ColumnAccumulator<Row, S.hidden, S.hold, S.want_dweight, A>;
  using Norm = RmsRow<Row, S.hidden, S.align_bytes, S.has_weight, S.round_early, Type<S.x>>;

  const Type<S.dy>* dy;
  const Type<S.x>* dsum;
  const Type<S.x>* x;
  const Type<S.weight>* weight;
  const A* rstd;
  Type<S.x>* dx;
  A* partials;
  long long rows;
  long long partial_rows;
  long long dy_stride;
  long long dsum_stride;
  long long x_stride;
  double offset;

  // The weight is read anew for each row, from the L1 cache: kept, it would take registers from
  // rows on their way.
  LIGER_DEVICE Pack<A> weighted(const Pack<A>& d, int pack) const {
    return Norm::template weighted<false>(d, weight, pack, offset);
  }

  // What a thread reads of one row.
  struct Reading {
    ShareDy dy;
    ShareX x;
    ShareDsum dsum;
    A rstd;
  };

  LIGER_DEVICE Reading read(long long row, int thread) const {
    return {{dy + row * dy_stride, thread},
            {x + row * x_stride, thread},
            {dsum + row * dsum_stride, thread},
            rstd[row]};
  }

  LIGER_DEVICE void one_row(const Turn& turn, const Reading& row, Sums& sums) const {
    const A r = row.rstd;
    A mean = 0;
    if constexpr (S.want_dx) {
      mean = Norm::mean(turn.buffer, turn.thread, [&](int slot, int pack) {
        return weighted(row.dy.at(slot, pack), pack) * (row.x.at(slot, pack) * r);
      });
    }
    if (!turn.active) return;
    Row::each(turn.thread, [&](int slot, int pack) {
      const auto d = row.dy.at(slot, pack);
      const auto xhat = row.x.at(slot, pack) * r;
      if constexpr (S.want_dx) {
        auto g = Norm::gradient(weighted(d, pack), xhat, mean, r);
        if constexpr (S.adds_dsum) g = g + row.dsum.at(slot, pack);
        store_pack<S.hidden, S.align_bytes>(dx + turn.row * S.hidden, pack, g);
      }
      if constexpr (S.want_dweight) sums.add_product(slot, pack, d, Norm::rounded(xhat));
    });
  }

  LIGER_DEVICE void operator()(long long block) const {
    each_partial<S.threads, S.rows>(
        block, rows, partial_rows,
        [&](long long partial, int thread) { return Sums(partials, partial, thread); },
        [&](long long row, int thread) { return read(row, thread); },
        [&](const Turn& turn, const Reading& row, Sums& sums) { one_row(turn, row, sums); },
        [&](const Sums& sums, int thread) { sums.write(thread); });
  }
};

}  // namespace liger
