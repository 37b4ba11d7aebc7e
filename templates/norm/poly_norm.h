// y = w0 * x^3 * r3 + w1 * x^2 * r2 + w2 * x * r1 + b, with rk = rsqrt(mean(x^2k) + eps), over the
// last dimension.
#pragma once
#include "device/sm90/cluster.h"
#include "device/weight_gradient.h"

namespace liger {

struct PolyNormForwardSpec {
  Dtype x;
  Dtype weight;
  Dtype bias;
  int hidden;
  int align_bytes;
  bool hold;
  int threads;  // tuned
  int rows;     // tuned
};

template <PolyNormForwardSpec S>
struct PolyNormForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.x>>;

  const Type<S.x>* x;
  const Type<S.weight>* weight;  // of the third power, the second and the first
  const Type<S.bias>* bias;
  Type<S.x>* y;
  A* rstd;  // of the powers one to three, row by row; null: not kept
  long long rows;
  long long x_stride;
  double eps;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const Share values(x + row * x_stride, thread);
      const A w3 = static_cast<A>(widen(weight[0]));
      const A w2 = static_cast<A>(widen(weight[1]));
      const A w1 = static_cast<A>(widen(weight[2]));
      const A b = static_cast<A>(widen(*bias));
      const auto moments = Row::template sum<Several<3, A>>(0, thread, [&](int slot, int pack) {
        const auto v = values.at(slot, pack);
        const auto square = v * v;
        const auto fourth = square * square;
        return Several<3, A>{{total(square), total(fourth), total(fourth * square)}};
      });
      A r[3];
      LIGER_UNROLL for (int k = 0; k < 3; ++k) {
        r[k] = reciprocal_root(moments.v[k] * A(1.0 / S.hidden) + A(eps));
      }
      if (!active) return;
      // A cube is scaled before it is made: x may be large where x^3 * r3 is not.
      const A c1 = w1 * r[0], c2 = w2 * r[1];
      Row::each(thread, [&](int slot, int pack) {
        const auto made = map(
            [&](A v) {
              const A square = v * v;
              return fused(v, fused(square * r[2], w3, c1), fused(square, c2, b));
            },
            values.at(slot, pack));
        store_pack<S.hidden, S.align_bytes>(y + row * S.hidden, pack, made);
      });
      if (thread == 0 && rstd) {
        LIGER_UNROLL for (int k = 0; k < 3; ++k) rstd[row * 3 + k] = r[k];
      }
    });
  }
};

template <PolyNormForwardSpec S>
constexpr int resident_of<PolyNormForward<S>> = resident_rows<PolyNormForward<S>, 768, 4, S.hold>();

struct PolyNormBackwardSpec {
  Dtype x;
  Dtype weight;
  bool want_dx;
  bool want_dweight;
  bool want_dbias;
  int hidden;
  int align_bytes;
  bool hold;
  int threads;  // tuned
  int rows;     // tuned; partials of one block
};

// With uk = x^k * rk and mk = mean(dy * uk):
//   dx = w2 r1 (dy - u1 m1) + 2 w1 r2 x (dy - u2 m2) + 3 w0 r3 x^2 (dy - u3 m3),
// and partial sums over rows of sum(dy * uk) and of sum(dy).
template <PolyNormBackwardSpec S>
struct PolyNormBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.x>>;

  // The same in all threads of the row.
  struct Sums {
    A* weight_partial;
    A* bias_partial;
    A of_weight[3] = {};
    A of_bias = 0;
  };

  const Type<S.x>* dy;
  const Type<S.x>* x;
  const Type<S.weight>* weight;
  const A* rstd;
  Type<S.x>* dx;
  A* weight_partials;
  A* bias_partials;
  long long rows;
  long long partial_rows;
  long long dy_stride;
  long long x_stride;

  // What a thread reads of one row.
  struct Reading {
    Share dy;
    Share x;
    A r[3];
  };

  LIGER_DEVICE Reading read(long long row, int thread) const {
    return {{dy + row * dy_stride, thread},
            {x + row * x_stride, thread},
            {rstd[row * 3], rstd[row * 3 + 1], rstd[row * 3 + 2]}};
  }

  LIGER_DEVICE void one_row(const Turn& turn, const Reading& row, const A (&w)[3],
                            Sums& sums) const {
    // Of dy times the powers zero to three.
    const auto dots =
        Row::template sum<Several<4, A>>(turn.buffer, turn.thread, [&](int slot, int pack) {
          const auto d = row.dy.at(slot, pack);
          const auto v = row.x.at(slot, pack);
          const auto first = d * v;
          const auto second = first * v;
          return Several<4, A>{
              {S.want_dbias ? total(d) : A(0), total(first), total(second), total(second * v)}};
        });
    if (!turn.active) return;
    A mean[3];
    LIGER_UNROLL for (int k = 0; k < 3; ++k) {
      const A dot = dots.v[k + 1] * row.r[k];
      sums.of_weight[2 - k] += dot;
      mean[k] = dot * A(1.0 / S.hidden);
    }
    sums.of_bias += dots.v[0];
    if constexpr (!S.want_dx) return;
    const A r1 = row.r[0], r2 = row.r[1], r3 = row.r[2];
    const A c1 = w[2] * r1, c2 = A(2) * w[1] * r2, c3 = A(3) * w[0];
    const A p1 = -mean[0] * r1, p2 = -mean[1] * r2, p3 = -mean[2];
    Row::each(turn.thread, [&](int slot, int pack) {
      const auto made = map(
          [&](A d, A v) {
            const A square = v * v;
            const A scaled = square * r3;  // x^2 * r3
            const A first = c1 * fused(v, p1, d);
            const A second = c2 * v * fused(square, p2, d);
            const A third = c3 * scaled * fused(scaled * v, p3, d);
            return first + second + third;
          },
          row.dy.at(slot, pack), row.x.at(slot, pack));
      store_pack<S.hidden, S.align_bytes>(dx + turn.row * S.hidden, pack, made);
    });
  }

  LIGER_DEVICE void operator()(long long block) const {
    const A w[3] = {static_cast<A>(widen(weight[0])), static_cast<A>(widen(weight[1])),
                    static_cast<A>(widen(weight[2]))};
    each_partial<S.threads, S.rows>(
        block, rows, partial_rows,
        [&](long long partial, int) {
          return Sums{weight_partials + partial * padded(3), bias_partials + partial * padded(1)};
        },
        [&](long long row, int thread) { return read(row, thread); },
        [&](const Turn& turn, const Reading& row, Sums& sums) { one_row(turn, row, w, sums); },
        [&](const Sums& sums, int thread) {
          if (thread != 0) return;
          if constexpr (S.want_dweight) {
            LIGER_UNROLL for (int k = 0; k < 3; ++k) sums.weight_partial[k] = sums.of_weight[k];
          }
          if constexpr (S.want_dbias) *sums.bias_partial = sums.of_bias;
        });
  }
};

// As many partials as there are blocks run at once.
template <PolyNormBackwardSpec S>
constexpr int resident_of<PolyNormBackward<S>> =
    resident_rows<PolyNormBackward<S>, 512, 2, S.hold>();

}  // namespace liger
