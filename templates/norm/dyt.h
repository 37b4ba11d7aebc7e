// y = gamma * tanh(alpha * x) + beta, with one alpha for all: what takes a norm's place where each
// element is computed by itself.
#pragma once
#include "device/sm90/cluster.h"
#include "device/weight_gradient.h"

namespace liger {

struct DytForwardSpec {
  Dtype x;
  Dtype alpha;
  Dtype gamma;
  Dtype beta;
  bool has_beta;
  int hidden;
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

template <DytForwardSpec S>
struct DytForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows>;

  const Type<S.x>* x;
  const Type<S.alpha>* alpha;
  const Type<S.gamma>* gamma;
  const Type<S.beta>* beta;
  Type<S.x>* y;
  long long rows;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    const A scale = static_cast<A>(widen(*alpha));
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (!active) return;
      Row::each(thread, [&](int, int pack) {
        const auto v = load_pack<S.hidden, S.align_bytes>(x + row * x_stride, pack);
        const auto g = load_pack<S.hidden, S.align_bytes>(gamma, pack);
        auto made = map(
            [scale](A one) { return hyperbolic_tangent<wants_exact(S.x)>(scale * one).value; }, v);
        if constexpr (S.has_beta) {
          made = fused(made, g, load_pack<S.hidden, S.align_bytes>(beta, pack));
        } else {
          made = made * g;
        }
        store_pack<S.hidden, S.align_bytes>(y + row * S.hidden, pack, made);
      });
    });
  }
};

struct DytBackwardSpec {
  Dtype x;
  Dtype alpha;
  Dtype gamma;
  bool want_dx;
  bool want_dalpha;
  bool want_dgamma;
  bool want_dbeta;
  int hidden;
  int align_bytes;
  bool hold;
  int threads;  // tuned
  int rows;     // tuned; partials of one block
};

// With t = tanh(alpha * x) and g = dy * gamma * (1 - t^2): dx = alpha * g, and partial sums of
// g * x, of dy * t and of dy.
template <DytBackwardSpec S>
struct DytBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.x>>;

  struct Sums {
    RowTotal<Row, S.hold, S.want_dalpha, A> of_alpha;
    ColumnAccumulator<Row, S.hidden, S.hold, S.want_dgamma, A> of_gamma;
    ColumnAccumulator<Row, S.hidden, S.hold, S.want_dbeta, A> of_beta;
    A* alpha_partial;
  };

  const Type<S.x>* dy;
  const Type<S.x>* x;
  const Type<S.alpha>* alpha;
  const Type<S.gamma>* gamma;
  Type<S.x>* dx;
  A* alpha_partials;
  A* gamma_partials;
  A* beta_partials;
  long long rows;
  long long partial_rows;
  long long dy_stride;
  long long x_stride;

  // What a thread reads of one row.
  struct Reading {
    Share dy;
    Share x;
  };

  // Adds to the sums of columns, stores dx, and gives what the pack adds to alpha's.
  LIGER_DEVICE A one_pack(A scale, long long row, int slot, int pack, const Pack<A>& d,
                          const Pack<A>& v, Sums& sums) const {
    Pack<A> t, slope;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      const auto at = hyperbolic_tangent<wants_exact(S.x)>(scale * v.v[i]);
      t.v[i] = at.value;
      slope.v[i] = at.slope;
    }
    if constexpr (S.want_dgamma) sums.of_gamma.add_product(slot, pack, d, t);
    if constexpr (S.want_dbeta) sums.of_beta.add(slot, pack, d);
    if constexpr (!S.want_dx && !S.want_dalpha) return A(0);
    // Read anew for each row, from the L1 cache: kept, it would take registers from rows on their
    // way.
    const auto g = d * load_pack<S.hidden, S.align_bytes, false>(gamma, pack) * slope;
    if constexpr (S.want_dx)
      store_pack<S.hidden, S.align_bytes>(dx + row * S.hidden, pack, g * scale);
    return total(g * v);
  }

  LIGER_DEVICE void operator()(long long block) const {
    const A scale = static_cast<A>(widen(*alpha));
    each_partial<S.threads, S.rows>(
        block, rows, partial_rows,
        [&](long long partial, int thread) {
          return Sums{{},
                      {gamma_partials, partial, thread},
                      {beta_partials, partial, thread},
                      alpha_partials + partial * padded(1)};
        },
        [&](long long row, int thread) {
          return Reading{{dy + row * dy_stride, thread}, {x + row * x_stride, thread}};
        },
        [&](const Turn& turn, const Reading& row, Sums& sums) {
          sums.of_alpha.add(turn.buffer, turn.thread, [&](int slot, int pack) {
            if (!turn.active) return A(0);
            return one_pack(scale, turn.row, slot, pack, row.dy.at(slot, pack),
                            row.x.at(slot, pack), sums);
          });
        },
        [&](const Sums& sums, int thread) {
          sums.of_gamma.write(thread);
          sums.of_beta.write(thread);
          if constexpr (S.want_dalpha) {
            if (thread == 0) *sums.alpha_partial = sums.of_alpha.total();
          }
        },
        [&](Sums& sums, int thread) { sums.of_alpha.meet(thread); });
  }
};

// As many partials as there are blocks run at once.
template <DytBackwardSpec S>
constexpr int resident_of<DytBackward<S>> = resident_rows<DytBackward<S>, 512, 2, S.hold>();

}  // namespace liger
