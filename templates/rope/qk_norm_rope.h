// RMS norm of each head of q and k, then rotary embedding, as one kernel over both; and the same
// way back. Every rounding is that of a norm and a rotation one after the other, and so are the
// sums.
#pragma once
#include "device/half_split.h"
#include "device/head_strides.h"
#include "device/weight_gradient.h"

namespace liger {

// Head `head` of a token.
struct HeadPlace {
  long long batch;
  long long token;
  long long head;
  LIGER_DEVICE long long in(const HeadStrides& strides) const {
    return batch * strides.batch + head * strides.head + token * strides.token;
  }
};

struct QkNormRopeForwardSpec {
  Dtype x;
  Dtype weight;
  Dtype angle;       // of cos and sin
  bool round_early;  // Llama: round the normalised head to x's type before the weight
  int head_size;
  int rotary;
  int q_heads;
  int k_heads;
  int align_bytes;
  int threads;  // tuned; of one head
  int rows;     // tuned; groups of threads in a block
  int heads;    // tuned; of one token, which a group takes in turn
};

template <QkNormRopeForwardSpec S>
struct QkNormRopeForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr int q_groups = (S.q_heads + S.heads - 1) / S.heads;
  static constexpr int k_groups = (S.k_heads + S.heads - 1) / S.heads;
  static constexpr int groups = q_groups + k_groups;
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Halves = HalfSplit<A, S.head_size, S.rotary, S.threads>;
  using Row = RowOf<S.head_size, S.threads, S.rows, !on_host>;
  using ShareX = RowShare<Row, S.head_size, S.align_bytes, Halves::paired, T>;
  using ShareWeight = RowShare<Row, S.head_size, S.align_bytes, Halves::paired, Type<S.weight>>;
  using AngleRow = RowOf<S.rotary, S.threads, S.rows, !on_host>;
  using ShareAngles =
      Angles<RowShare<AngleRow, S.rotary, S.align_bytes, Halves::paired, Type<S.angle>>, A>;

  const T* q;
  const T* k;
  const Type<S.weight>* q_weight;
  const Type<S.weight>* k_weight;
  const Type<S.angle>* cos;
  const Type<S.angle>* sin;
  T* q_out;
  T* k_out;
  A* q_rstd;  // [batch, heads, tokens]
  A* k_rstd;
  long long batch;
  long long tokens;
  HeadStrides q_strides;
  HeadStrides k_strides;
  HeadStrides q_out_strides;
  HeadStrides k_out_strides;
  long long cos_strides[2];  // of batch, token
  long long sin_strides[2];
  double eps;
  double offset;

  // A head as a norm leaves it.
  struct Normed {
    const ShareX& x;
    const ShareWeight& weight;
    A rstd;
    A offset;
    LIGER_DEVICE Pack<A> at(int slot, int pack) const {
      auto v = x.at(slot, pack) * rstd;
      if constexpr (S.round_early) v = rounded_to<T>(v);
      return rounded_to<T>(v * (weight.at(slot, pack) + offset));
    }
    LIGER_DEVICE A element(int column) const {
      auto v = x.element(column) * rstd;
      if constexpr (S.round_early) v = rounded_to<T>(v);
      return rounded_to<T>(v * (weight.element(column) + offset));
    }
  };

  // What a group of threads works on: heads of q or of k. Chosen without a branch, because both may
  // be in one warp, and a warp sums together.
  struct Side {
    const T* from;
    const Type<S.weight>* weight;
    T* to;
    A* rstd;
    HeadStrides from_strides;
    HeadStrides to_strides;
    int heads;
  };
  LIGER_DEVICE Side side(bool of_q) const {
    return of_q ? Side{q, q_weight, q_out, q_rstd, q_strides, q_out_strides, S.q_heads}
                : Side{k, k_weight, k_out, k_rstd, k_strides, k_out_strides, S.k_heads};
  }

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(
        block, batch * tokens * groups, [&](long long item, int thread, bool active) {
          const int group = static_cast<int>(item % groups);
          const auto token = static_cast<unsigned>(item / groups);
          const auto of_batch = static_cast<unsigned>(tokens);
          const bool of_q = group < q_groups;
          some_heads(side(of_q), token / of_batch, token % of_batch,
                     (of_q ? group : group - q_groups) * S.heads, thread, active);
        });
  }

 private:
  LIGER_DEVICE void some_heads(const Side& side, long long b, long long t, int first, int thread,
                               bool active) const {
    const ShareAngles c(cos + b * cos_strides[0] + t * cos_strides[1], thread);
    const ShareAngles s(sin + b * sin_strides[0] + t * sin_strides[1], thread);
    const ShareWeight weight(side.weight, thread);
    // The last heads may be fewer: then the last one of all is read again, and not written.
    const auto place = [&](int i) {
      const int head = first + i;
      return HeadPlace{b, t, head < side.heads ? head : side.heads - 1};
    };
    const auto read = [&](int i) {
      return ShareX(side.from + place(i).in(side.from_strides), thread);
    };
    auto next = read(0);
    for (int i = 0; i < S.heads; ++i) {
      const auto x = next;
      // A head is read while the one before it is on its way.
      if (i + 1 < S.heads) next = read(i + 1);
      const A squares = Row::template sum_of_elements<A>(0, thread, [&](int slot, int pack) {
        const auto v = x.at(slot, pack);
        return v * v;
      });
      const A r = reciprocal_root(squares * A(1.0 / S.head_size) + A(eps));
      if (!active || first + i >= side.heads) continue;
      const Normed normed{x, weight, r, A(offset)};
      T* const to = side.to + place(i).in(side.to_strides);
      Row::each(thread, [&](int slot, int pack) {
        const auto y = Halves::template turned<false>(slot, pack, normed, c, s);
        store_pack<S.head_size, S.align_bytes>(to, pack, y);
      });
      if (thread == 0) side.rstd[(b * side.heads + first + i) * tokens + t] = r;
    }
  }
};

struct QkNormRopeBackwardSpec {
  Dtype x;
  Dtype weight;
  Dtype angle;
  bool round_early;
  int head_size;
  int rotary;
  int q_heads;
  int k_heads;
  int align_bytes;
  bool want_dx;
  bool want_dweight;
  int threads;  // tuned
  int rows;     // tuned; partials of one block
};

// The gradient of a head is turned back, rounded, and taken through the norm as RmsNormBackward
// does. The first blocks have partials of q, the others of k, as many of each.
template <QkNormRopeBackwardSpec S>
struct QkNormRopeBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Halves = HalfSplit<A, S.head_size, S.rotary, S.threads>;
  using Row = RowOf<S.head_size, S.threads, S.rows, !on_host>;
  using Share = RowShare<Row, S.head_size, S.align_bytes, Halves::paired, T>;
  using AngleRow = RowOf<S.rotary, S.threads, S.rows, !on_host>;
  using ShareAngles =
      Angles<RowShare<AngleRow, S.rotary, S.align_bytes, Halves::paired, Type<S.angle>>, A>;
  using Sums = ColumnAccumulator<Row, S.head_size, !on_host, S.want_dweight, A>;

  const T* dq_out;
  const T* dk_out;
  const T* q;
  const T* k;
  const Type<S.weight>* q_weight;
  const Type<S.weight>* k_weight;
  const Type<S.angle>* cos;
  const Type<S.angle>* sin;
  const A* q_rstd;
  const A* k_rstd;
  T* dq;
  T* dk;
  A* q_partials;
  A* k_partials;
  long long batch;
  long long tokens;
  long long partial_rows;
  HeadStrides dq_out_strides;
  HeadStrides dk_out_strides;
  HeadStrides q_strides;
  HeadStrides k_strides;
  HeadStrides dq_strides;
  HeadStrides dk_strides;
  long long cos_strides[2];
  long long sin_strides[2];
  double offset;

  // What a block works on.
  struct Side {
    const T* dy;
    const T* x;
    const Type<S.weight>* weight;
    const A* rstd;
    T* dx;
    A* partials;
    HeadStrides dy_strides;
    HeadStrides x_strides;
    HeadStrides dx_strides;
    unsigned heads;
  };
  LIGER_DEVICE Side side(bool of_q) const {
    return of_q ? Side{dq_out,         q,         q_weight,   q_rstd,   dq, q_partials,
                       dq_out_strides, q_strides, dq_strides, S.q_heads}
                : Side{dk_out,         k,         k_weight,   k_rstd,   dk, k_partials,
                       dk_out_strides, k_strides, dk_strides, S.k_heads};
  }

  // What a thread reads of one head, and where it writes.
  struct Reading {
    Share dy;
    Share x;
    ShareAngles cos;
    ShareAngles sin;
    A rstd;
    T* dx;
  };

  LIGER_DEVICE void operator()(long long block) const {
    const long long blocks_of_side = (partial_rows + S.rows - 1) / S.rows;
    const bool of_q = block < blocks_of_side;
    const Side side = this->side(of_q);
    each_partial<S.threads, S.rows>(
        of_q ? block : block - blocks_of_side, batch * tokens * side.heads, partial_rows,
        [&](long long partial, int thread) { return Sums(side.partials, partial, thread); },
        [&](long long row, int thread) { return read(side, static_cast<unsigned>(row), thread); },
        [&](const Turn& turn, const Reading& head, Sums& sums) {
          one_head(turn, head, side.weight, sums);
        },
        [&](const Sums& sums, int thread) { sums.write(thread); });
  }

 private:
  LIGER_DEVICE Reading read(const Side& side, unsigned row, int thread) const {
    const unsigned token = row / side.heads;
    const auto of_batch = static_cast<unsigned>(tokens);
    const HeadPlace place{token / of_batch, token % of_batch, row % side.heads};
    const long long b = place.batch;
    const long long t = place.token;
    return {{side.dy + place.in(side.dy_strides), thread},
            {side.x + place.in(side.x_strides), thread},
            {cos + b * cos_strides[0] + t * cos_strides[1], thread},
            {sin + b * sin_strides[0] + t * sin_strides[1], thread},
            side.rstd[(b * side.heads + place.head) * tokens + t],
            side.dx + place.in(side.dx_strides)};
  }

  LIGER_DEVICE Pack<A> weighted(const Pack<A>& d, const Type<S.weight>* weight, int pack) const {
    return d * (load_pack<S.head_size, S.align_bytes, false>(weight, pack) + A(offset));
  }

  LIGER_DEVICE void one_head(const Turn& turn, const Reading& head, const Type<S.weight>* weight,
                             Sums& sums) const {
    // The gradient of the normalised head, in the rounding that a rotation of its own would give
    // it.
    RawPack<T> dy[Row::slots];
    Row::each(turn.thread, [&](int slot, int pack) {
      dy[slot] =
          narrowed<T>(Halves::template turned<true>(slot, pack, head.dy, head.cos, head.sin));
    });
    const A r = head.rstd;
    A mean = 0;
    if constexpr (S.want_dx) {
      const A dot =
          Row::template sum_of_elements<A>(turn.buffer, turn.thread, [&](int slot, int pack) {
            return weighted(widened(dy[slot]), weight, pack) * (head.x.at(slot, pack) * r);
          });
      mean = dot * A(1.0 / S.head_size);
    }
    if (!turn.active) return;
    Row::each(turn.thread, [&](int slot, int pack) {
      const auto d = widened(dy[slot]);
      auto xhat = head.x.at(slot, pack) * r;
      if constexpr (S.want_dx) {
        const auto g = fused(xhat, filled(-mean), weighted(d, weight, pack)) * r;
        store_pack<S.head_size, S.align_bytes>(head.dx, pack, g);
      }
      if constexpr (S.want_dweight) {
        if constexpr (S.round_early) xhat = rounded_to<T>(xhat);
        sums.add_product(slot, pack, d, xhat);
      }
    });
  }
};

}  // namespace liger
