// y = rms_norm(x) * (1 + scale) + shift, where a row of scale and shift is that of one or more
// consecutive rows of x: the rows of a modulation.
#pragma once
#include "device/column_sum.h"
#include "device/rms_row.h"
#include "device/weight_gradient.h"

namespace liger {

struct ModulatedRmsNormForwardSpec {
  Dtype x;
  Dtype weight;
  Dtype scale;  // of shift too
  bool has_weight;
  bool has_shift;
  bool round_early;  // Llama: round the normalised row to x's type before the weight
  bool per_row;      // each row has a modulation of its own
  int hidden;
  int align_bytes;
  bool hold;
  int threads;  // tuned
  int rows;     // tuned
};

template <ModulatedRmsNormForwardSpec S>
struct ModulatedRmsNormForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using ShareX = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.x>>;
  // A row of its own comes from memory, on its way with x; one that others have read is cached.
  using ShareScale = RowShare<Row, S.hidden, S.align_bytes, S.hold && S.per_row, Type<S.scale>>;
  using ShareShift =
      RowShare<Row, S.hidden, S.align_bytes, S.hold && S.per_row && S.has_shift, Type<S.scale>>;
  using Norm = RmsRow<Row, S.hidden, S.align_bytes, S.has_weight, S.round_early, Type<S.x>>;

  const Type<S.x>* x;
  const Type<S.scale>* scale;
  const Type<S.scale>* shift;
  const Type<S.weight>* weight;
  Type<S.x>* y;
  A* rstd;  // null: not kept
  long long rows;
  long long modulation_rows;
  long long x_stride;
  long long scale_stride;
  long long shift_stride;
  double eps;
  double offset;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const long long modulation = S.per_row ? row : row / modulation_rows;
      const ShareX values(x + row * x_stride, thread);
      const ShareScale scales(scale + modulation * scale_stride, thread);
      const ShareShift shifts(shift + modulation * shift_stride, thread);
      const A r =
          Norm::rstd(thread, eps, [&](int slot, int pack) { return values.at(slot, pack); });
      if (!active) return;
      Row::each(thread, [&](int slot, int pack) {
        const auto normed =
            Norm::weighted(Norm::rounded(values.at(slot, pack) * r), weight, pack, offset);
        auto v = normed * (scales.at(slot, pack) + A(1));
        if constexpr (S.has_shift) v = v + shifts.at(slot, pack);
        store_pack<S.hidden, S.align_bytes>(y + row * S.hidden, pack, v);
      });
      if (thread == 0 && rstd) rstd[row] = r;
    });
  }
};

struct ModulatedRmsNormBackwardSpec {
  Dtype x;
  Dtype weight;
  Dtype scale;
  bool has_weight;
  bool round_early;
  bool per_row;
  bool want_dx;
  bool want_dscale;
  bool want_dshift;
  bool want_dweight;
  int hidden;
  int align_bytes;
  bool hold;
  int threads;  // tuned
  int rows;     // tuned; partials of one block
};

// With d = dy * (1 + scale) and m = d * (offset + weight), dx is that of any RMS norm. A partial
// walks rows of one modulation and sums dy * xhat and dy; of these ModulationSum makes the
// gradients of scale, shift and weight. Where each row has a modulation of its own, those of scale
// and shift are the row's, and a partial sums d * xhat for the weight.
template <ModulatedRmsNormBackwardSpec S>
struct ModulatedRmsNormBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool sums_products = S.want_dweight || (S.want_dscale && !S.per_row);
  static constexpr bool sums_incoming = S.want_dshift && !S.per_row;
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.x>>;
  using ShareScale = RowShare<Row, S.hidden, S.align_bytes, S.hold && S.per_row, Type<S.scale>>;
  using Norm = RmsRow<Row, S.hidden, S.align_bytes, S.has_weight, S.round_early, Type<S.x>>;

  struct Sums {
    ColumnAccumulator<Row, S.hidden, S.hold, sums_products, A> products;
    ColumnAccumulator<Row, S.hidden, S.hold, sums_incoming, A> incoming;
  };

  const Type<S.x>* dy;
  const Type<S.x>* x;
  const Type<S.scale>* scale;
  const Type<S.weight>* weight;
  const A* rstd;
  Type<S.x>* dx;
  Type<S.scale>* dscale;
  Type<S.scale>* dshift;
  A* products;
  A* incoming;
  long long walks;         // modulations, or one walk over all rows
  long long rows;          // of a walk
  long long partial_rows;  // of a walk
  long long dy_stride;
  long long x_stride;
  long long scale_stride;
  double offset;

  // What a thread reads of one row.
  struct Reading {
    Share dy;
    Share x;
    ShareScale scale;
    A rstd;
  };
  // Of a thread: packs of two rows on their way and of the sums, and what is being made.
  static constexpr int registers_of_pack =
      2 * (2 * sizeof(Type<S.x>) + (S.per_row ? sizeof(Type<S.scale>) : 0)) * pack_size / 4 +
      (S.per_row ? 1 : 2) * pack_size * sizeof(A) / 4;
  static constexpr int registers = S.hold ? Row::slots * registers_of_pack + 64 : 128;
  static constexpr int blocks_at_once = blocks_of_partials<S.hidden, S.threads, S.rows>(registers);

  LIGER_DEVICE Reading read(long long row, long long modulation, int thread) const {
    return {{dy + row * dy_stride, thread},
            {x + row * x_stride, thread},
            {scale + modulation * scale_stride, thread},
            rstd[row]};
  }

  LIGER_DEVICE Pack<A> weighted(const Pack<A>& values, int pack) const {
    return Norm::template weighted<false>(values, weight, pack, offset);
  }

  // dy * (1 + scale).
  static LIGER_DEVICE Pack<A> modulated(const Reading& row, int slot, int pack) {
    return row.dy.at(slot, pack) * (row.scale.at(slot, pack) + A(1));
  }

  LIGER_DEVICE void one_row(long long to, const Turn& turn, const Reading& row, Sums& sums) const {
    const A r = row.rstd;
    A mean = 0;
    if constexpr (S.want_dx) {
      mean = Norm::mean(turn.buffer, turn.thread, [&](int slot, int pack) {
        return weighted(modulated(row, slot, pack), pack) * (row.x.at(slot, pack) * r);
      });
    }
    if (!turn.active) return;
    Row::each(turn.thread, [&](int slot, int pack) {
      const auto dy = row.dy.at(slot, pack);
      const auto xhat = row.x.at(slot, pack) * r;
      const auto rounded = Norm::rounded(xhat);
      if constexpr (S.want_dx) {
        const auto m = weighted(modulated(row, slot, pack), pack);
        store_pack<S.hidden, S.align_bytes>(dx + to * S.hidden, pack,
                                            Norm::gradient(m, xhat, mean, r));
      }
      if constexpr (S.per_row) {
        if constexpr (S.want_dscale) {
          store_pack<S.hidden, S.align_bytes>(dscale + to * S.hidden, pack,
                                              dy * weighted(rounded, pack));
        }
        if constexpr (S.want_dshift)
          store_pack<S.hidden, S.align_bytes>(dshift + to * S.hidden, pack, dy);
        if constexpr (S.want_dweight)
          sums.products.add_product(slot, pack, modulated(row, slot, pack), rounded);
      } else {
        if constexpr (sums_products) sums.products.add_product(slot, pack, dy, rounded);
        if constexpr (sums_incoming) sums.incoming.add(slot, pack, dy);
      }
    });
  }

  LIGER_DEVICE void operator()(long long block) const {
    const long long blocks = (partial_rows + S.rows - 1) / S.rows;
    const long long walk = walks - 1 - block / blocks;  // the last rows first
    each_partial<S.threads, S.rows>(
        block % blocks, rows, partial_rows,
        [&](long long partial, int thread) {
          const long long at = walk * partial_rows + partial;
          return Sums{{products, at, thread}, {incoming, at, thread}};
        },
        [&](long long row, int thread) {
          return read(walk * rows + row, S.per_row ? row : walk, thread);
        },
        [&](const Turn& turn, const Reading& row, Sums& sums) {
          one_row(walk * rows + turn.row, turn, row, sums);
        },
        [&](const Sums& sums, int thread) {
          sums.products.write(thread);
          sums.incoming.write(thread);
        });
  }
};

struct ModulationSumSpec {
  Dtype partial;
  Dtype weight;
  Dtype scale;
  bool has_weight;
  bool want_dscale;
  bool want_dshift;
  bool want_dweight;
  int columns;
  int align_bytes;
  int groups;  // a power of two from 32
};

// With p = sum of dy * xhat over the rows of a modulation: dscale = p * (offset + weight), dshift =
// sum of dy, dweight = sum of p * (1 + scale) over the modulations.
template <ModulationSumSpec S>
struct ModulationSum {
  using Sums = ColumnSums<S.columns, S.groups>;
  static constexpr int block_threads = Sums::block_threads;
  using A = Type<S.partial>;

  const A* products;
  const A* incoming;
  const Type<S.scale>* scale;
  const Type<S.weight>* weight;
  Type<S.scale>* dscale;
  Type<S.scale>* dshift;
  Type<S.weight>* dweight;
  long long modulations;
  long long partial_rows;  // of a modulation
  long long scale_stride;
  double offset;

  // A block has columns of the weight's gradient, or of one row of scale's or of shift's.
  LIGER_DEVICE void operator()(long long block) const {
    const int columns = static_cast<int>(block % Sums::blocks);
    const long long part = block / Sums::blocks - S.want_dweight;  // the longest sum comes first
    const bool of_weight = S.want_dweight && part < 0;
    const bool of_scale = S.want_dscale && part >= 0 && part < modulations;
    const long long modulation =
        of_weight || of_scale ? part : part - (S.want_dscale ? modulations : 0);
    const A* const partials = of_weight || of_scale ? products : incoming;
    const long long first = of_weight ? 0 : modulation * partial_rows;
    LIGER_SHARED typename Sums::template Memory<A> memory;
    Sums::template add<A>(
        memory, columns, of_weight ? modulations * partial_rows : partial_rows,
        [&](long long row, int pack) {
          const auto sum =
              load<16>(partials + (first + row) * padded(S.columns) + pack * pack_size);
          return of_weight ? sum * factor(row / partial_rows, pack) : sum;
        },
        [&](int column, A sum) {
          if (of_weight) {
            dweight[column] = narrow<Type<S.weight>>(sum);
          } else if (of_scale) {
            dscale[modulation * S.columns + column] =
                narrow<Type<S.scale>>(sum * weight_at(column));
          } else {
            dshift[modulation * S.columns + column] = narrow<Type<S.scale>>(sum);
          }
        });
  }

 private:
  LIGER_DEVICE Pack<A> factor(long long modulation, int pack) const {
    return load_pack<S.columns, S.align_bytes>(scale + modulation * scale_stride, pack) + A(1);
  }
  LIGER_DEVICE A weight_at(int column) const {
    if constexpr (S.has_weight) return widen(weight[column]) + A(offset);
    return A(1);
  }
};

}  // namespace liger
