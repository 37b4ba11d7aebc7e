// y = rms_norm(x) * act(gate), or rms_norm(x * act(gate)), over the last dimension or over groups
// of it. A row here is one group of a row of the tensors.
#pragma once
#include "device/gated.h"
#include "device/rms_row.h"
#include "device/weight_gradient.h"

namespace liger {

struct GatedRmsNormForwardSpec {
  Dtype x;
  Dtype gate;
  Dtype weight;
  bool has_weight;
  bool round_early;     // to x's type before the weight
  bool round_weighted;  // to x's type before the gate
  bool sigmoid;         // act; else silu
  bool gate_first;
  int groups;  // of a row of the tensors
  int size;    // exact length of a group
  int align_bytes;
  bool hold;    // the group fits in registers
  int threads;  // tuned; of one group
  int rows;     // tuned; of one block
};

// Where a group begins: the groups of a row lie side by side.
template <int Groups, int Size>
LIGER_DEVICE long long group_begin(long long row, long long stride) {
  return row / Groups * stride + row % Groups * Size;
}

template <GatedRmsNormForwardSpec S>
struct GatedRmsNormForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = wants_exact(S.x) || wants_exact(S.gate);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RowOf<S.size, S.threads, S.rows, S.hold>;
  using ShareX = RowShare<Row, S.size, S.align_bytes, S.hold, T>;
  using ShareGate = RowShare<Row, S.size, S.align_bytes, S.hold, Type<S.gate>>;
  using Norm = RmsRow<Row, S.size, S.align_bytes, S.has_weight, S.round_early, T>;

  const T* x;
  const Type<S.gate>* gate;
  const Type<S.weight>* weight;
  T* y;
  A* rstd;  // null: not kept
  long long rows;
  long long x_stride;
  long long gate_stride;
  double eps;
  double offset;

  static LIGER_DEVICE Pack<A> activated(const Pack<A>& g) {
    if constexpr (S.sigmoid) {
      return map([](A one) { return sigmoid<exact>(one); }, g);
    } else {
      return map([](A one) { return one * sigmoid<exact>(one); }, g);
    }
  }

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const ShareX values(x + group_begin<S.groups, S.size>(row, x_stride), thread);
      const ShareGate gates(gate + group_begin<S.groups, S.size>(row, gate_stride), thread);
      const auto normed = [&](int slot, int pack) {
        if constexpr (S.gate_first) {
          return values.at(slot, pack) * activated(gates.at(slot, pack));
        } else {
          return values.at(slot, pack);
        }
      };
      const A r = Norm::rstd(thread, eps, normed);
      if (!active) return;
      const auto* const w = weight + group_begin<S.groups, S.size>(row, 0);
      Row::each(thread, [&](int slot, int pack) {
        auto v = Norm::weighted(Norm::rounded(normed(slot, pack) * r), w, pack, offset);
        if constexpr (S.round_weighted) v = rounded_to<T>(v);
        if constexpr (!S.gate_first) v = v * activated(gates.at(slot, pack));
        store_pack<S.size, S.align_bytes>(y + row * S.size, pack, v);
      });
      if (thread == 0 && rstd) rstd[row] = r;
    });
  }
};

struct GatedRmsNormBackwardSpec {
  Dtype x;
  Dtype gate;
  Dtype weight;
  bool has_weight;
  bool round_early;
  bool round_weighted;
  bool sigmoid;
  bool gate_first;
  bool want_dx;
  bool want_dgate;
  bool want_dweight;
  int groups;
  int size;
  int align_bytes;
  bool hold;
  int threads;  // tuned
  int rows;     // tuned; partials of one block
};

// What is normalised is v = x, or x * act(gate); xhat = v * rstd, d is what arrives at the weighted
// norm, m = d * (offset + weight). The gradient of v is rstd * (m - xhat * mean(m * xhat)); partial
// sums of d * xhat are the weight's. The number of partials is a multiple of that of the groups, so
// that all rows of one are the same columns.
template <GatedRmsNormBackwardSpec S>
struct GatedRmsNormBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = wants_exact(S.x) || wants_exact(S.gate);
  static constexpr bool wants_dv = S.want_dx || (S.gate_first && S.want_dgate);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RowOf<S.size, S.threads, S.rows, S.hold>;
  using ShareX = RowShare<Row, S.size, S.align_bytes, S.hold, T>;
  using ShareGate = RowShare<Row, S.size, S.align_bytes, S.hold, Type<S.gate>>;
  using Norm = RmsRow<Row, S.size, S.align_bytes, S.has_weight, S.round_early, T>;
  static constexpr int partial_align =
      S.size * sizeof(A) % 16 == 0 || S.groups == 1 ? 16 : sizeof(A);
  using Sums = ColumnAccumulator<Row, S.size, S.hold, S.want_dweight, A, partial_align>;

  const T* dy;
  const T* x;
  const Type<S.gate>* gate;
  const Type<S.weight>* weight;
  const A* rstd;
  T* dx;
  Type<S.gate>* dgate;
  A* partials;  // [partial_rows / groups, padded(groups * size)]
  long long rows;
  long long partial_rows;
  long long dy_stride;
  long long x_stride;
  long long gate_stride;
  double offset;

  // What a thread reads of one row.
  struct Reading {
    ShareX dy;
    ShareX x;
    ShareGate gate;
    A rstd;
  };
  // Of a thread: packs of two rows on their way and of a sum, and what is being made.
  static constexpr int registers_of_pack =
      2 * (2 * sizeof(T) + sizeof(Type<S.gate>)) * pack_size / 4 + pack_size * sizeof(A) / 4;
  static constexpr int registers = S.hold ? Row::slots * registers_of_pack + 64 : 128;
  static constexpr int blocks_at_once = blocks_of_partials<S.size, S.threads, S.rows>(registers);

  LIGER_DEVICE Reading read(long long row, int thread) const {
    return {{dy + group_begin<S.groups, S.size>(row, dy_stride), thread},
            {x + group_begin<S.groups, S.size>(row, x_stride), thread},
            {gate + group_begin<S.groups, S.size>(row, gate_stride), thread},
            rstd[row]};
  }

  // Eight elements of a row, as far as they are the same for all that is made of them.
  struct Elements {
    Pack<A> activation;
    Pack<A> slope;
    Pack<A> d;
    Pack<A> xhat;
  };

  static LIGER_DEVICE Elements elements(const Reading& row, int slot, int pack) {
    const auto g = row.gate.at(slot, pack);
    Elements result;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      const auto act = activation_at(g.v[i]);
      result.activation.v[i] = act.value;
      result.slope.v[i] = act.slope;
    }
    result.d = row.dy.at(slot, pack);
    result.xhat = row.x.at(slot, pack) * row.rstd;
    if constexpr (S.gate_first) {
      result.xhat = result.xhat * result.activation;
    } else {
      result.d = result.d * result.activation;
    }
    return result;
  }

  static LIGER_DEVICE ValueAndSlope<A> activation_at(A g) {
    if constexpr (S.sigmoid) {
      return Sigmoid::at<exact>(g);
    } else {
      return Silu::at<exact>(g);
    }
  }

  LIGER_DEVICE void one_row(const Turn& turn, const Reading& row, Sums& sums) const {
    const auto* const w = weight + group_begin<S.groups, S.size>(turn.row, 0);
    A mean = 0;
    if constexpr (wants_dv) {
      mean = Norm::mean(turn.buffer, turn.thread, [&](int slot, int pack) {
        const auto e = elements(row, slot, pack);
        return Norm::template weighted<false>(e.d, w, pack, offset) * e.xhat;
      });
    }
    if (!turn.active) return;
    Row::each(turn.thread, [&](int slot, int pack) {
      const auto e = elements(row, slot, pack);
      const auto rounded = Norm::rounded(e.xhat);
      if constexpr (S.want_dweight) sums.add_product(slot, pack, e.d, rounded);
      if constexpr (S.want_dgate && !S.gate_first) {
        auto weighted = Norm::template weighted<false>(rounded, w, pack, offset);
        if constexpr (S.round_weighted) weighted = rounded_to<T>(weighted);
        store_pack<S.size, S.align_bytes>(dgate + turn.row * S.size, pack,
                                          row.dy.at(slot, pack) * weighted * e.slope);
      }
      if constexpr (wants_dv) {
        const auto m = Norm::template weighted<false>(e.d, w, pack, offset);
        auto dv = Norm::gradient(m, e.xhat, mean, row.rstd);
        if constexpr (S.want_dgate && S.gate_first) {
          store_pack<S.size, S.align_bytes>(dgate + turn.row * S.size, pack,
                                            dv * row.x.at(slot, pack) * e.slope);
        }
        if constexpr (S.gate_first) dv = dv * e.activation;
        if constexpr (S.want_dx)
          store_pack<S.size, S.align_bytes>(dx + turn.row * S.size, pack, dv);
      }
    });
  }

  // Rows are dealt from the last, so the first partial has the last group.
  LIGER_DEVICE A* memory_of(long long partial) const {
    const long long group = S.groups - 1 - partial % S.groups;
    return partials + partial / S.groups * padded(S.groups * S.size) + group * S.size;
  }

  LIGER_DEVICE void operator()(long long block) const {
    each_partial<S.threads, S.rows>(
        block, rows, partial_rows,
        [&](long long partial, int thread) { return Sums(memory_of(partial), thread); },
        [&](long long row, int thread) { return read(row, thread); },
        [&](const Turn& turn, const Reading& row, Sums& sums) { one_row(turn, row, sums); },
        [&](const Sums& sums, int thread) { sums.write(thread); });
  }
};

}  // namespace liger
