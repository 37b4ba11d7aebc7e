// y = (x - mean) * rstd * weight + bias, over the last dimension; the variance from the deviations.
#pragma once
#include "device/layer_row.h"
#include "device/weight_gradient.h"

namespace liger {

struct LayerNormForwardSpec {
  Dtype x;
  Dtype weight;
  Dtype bias;
  bool has_weight;
  bool has_bias;
  int hidden;
  int align_bytes;
  bool hold;
  int threads;  // tuned
  int rows;     // tuned
};

template <LayerNormForwardSpec S>
struct LayerNormForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.x>>;

  const Type<S.x>* x;
  const Type<S.weight>* weight;
  const Type<S.bias>* bias;
  Type<S.x>* y;
  A* mean;
  A* rstd;  // null: not kept
  long long rows;
  long long x_stride;
  double eps;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const Share values(x + row * x_stride, thread);
      const auto of_row = layer_statistics<Row, S.hidden, A>(values, thread, eps);
      if (!active) return;
      Row::each(thread, [&](int slot, int pack) {
        const auto v = of_row.normalised(values.at(slot, pack));
        store_pack<S.hidden, S.align_bytes>(
            y + row * S.hidden, pack,
            affine<S.hidden, S.align_bytes, S.has_weight, S.has_bias>(v, weight, bias, pack));
      });
      if (thread == 0 && rstd) {
        mean[row] = of_row.mean();
        rstd[row] = of_row.rstd;
      }
    });
  }
};

struct LayerNormBackwardSpec {
  Dtype x;
  Dtype weight;
  bool has_weight;
  bool adds_dsum;  // the gradient that arrives at the sum of a residual is added to dx
  bool want_dx;
  bool want_dweight;
  bool want_dbias;
  int hidden;
  int align_bytes;
  bool hold;
  int threads;  // tuned
  int rows;     // tuned; partials of one block
};

// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * weight, and partial sums of dy *
// xhat and of dy.
template <LayerNormBackwardSpec S>
struct LayerNormBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.x>>;
  using ShareDsum = RowShare<Row, S.hidden, S.align_bytes, S.hold && S.adds_dsum, Type<S.x>>;

  struct Sums {
    ColumnAccumulator<Row, S.hidden, S.hold, S.want_dweight, A> of_weight;
    ColumnAccumulator<Row, S.hidden, S.hold, S.want_dbias, A> of_bias;
  };

  const Type<S.x>* dy;
  const Type<S.x>* dsum;
  const Type<S.x>* x;
  const Type<S.weight>* weight;
  const A* mean;
  const A* rstd;
  Type<S.x>* dx;
  A* weight_partials;
  A* bias_partials;
  long long rows;
  long long partial_rows;
  long long dy_stride;
  long long dsum_stride;
  long long x_stride;

  // The weight is read anew for each row, from the L1 cache: kept, it would take registers from
  // rows on their way.
  LIGER_DEVICE Pack<A> weighted(const Pack<A>& d, int pack) const {
    if constexpr (S.has_weight) {
      return d * load_pack<S.hidden, S.align_bytes, false>(weight, pack);
    } else {
      return d;
    }
  }

  // What a thread reads of one row.
  struct Reading {
    Share dy;
    Share x;
    ShareDsum dsum;
    A mean;
    A rstd;
  };

  LIGER_DEVICE Reading read(long long row, int thread) const {
    return {{dy + row * dy_stride, thread},
            {x + row * x_stride, thread},
            {dsum + row * dsum_stride, thread},
            mean[row],
            rstd[row]};
  }

  LIGER_DEVICE void one_row(const Turn& turn, const Reading& row, Sums& sums) const {
    const A m = row.mean;
    const A r = row.rstd;
    Two<A> means;
    if constexpr (S.want_dx) {
      // Past the row's end dy is zero, so neither product counts there.
      const auto dots =
          Row::template sum_of_elements<Two<A>>(turn.buffer, turn.thread, [&](int slot, int pack) {
            const auto g = weighted(row.dy.at(slot, pack), pack);
            return liger::both(part_of_sum(g),
                               part_of_sum(g * ((row.x.at(slot, pack) + (-m)) * r)));
          });
      means = {dots.first * A(1.0 / S.hidden), dots.second * A(1.0 / S.hidden)};
    }
    if (!turn.active) return;
    Row::each(turn.thread, [&](int slot, int pack) {
      const auto d = row.dy.at(slot, pack);
      const auto xhat = (row.x.at(slot, pack) + (-m)) * r;
      if constexpr (S.want_dx) {
        auto g = weighted(d, pack) + (-means.first);
        g = fused(xhat, filled(-means.second), g) * r;
        if constexpr (S.adds_dsum) g = g + row.dsum.at(slot, pack);
        store_pack<S.hidden, S.align_bytes>(dx + turn.row * S.hidden, pack, g);
      }
      if constexpr (S.want_dweight) sums.of_weight.add_product(slot, pack, d, xhat);
      if constexpr (S.want_dbias) sums.of_bias.add(slot, pack, d);
    });
  }

  LIGER_DEVICE void operator()(long long block) const {
    each_partial<S.threads, S.rows>(
        block, rows, partial_rows,
        [&](long long partial, int thread) {
          return Sums{{weight_partials, partial, thread}, {bias_partials, partial, thread}};
        },
        [&](long long row, int thread) { return read(row, thread); },
        [&](const Turn& turn, const Reading& row, Sums& sums) { one_row(turn, row, sums); },
        [&](const Sums& sums, int thread) {
          sums.of_weight.write(thread);
          sums.of_bias.write(thread);
        });
  }
};

}  // namespace liger
