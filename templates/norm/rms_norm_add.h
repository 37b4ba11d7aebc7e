// y = residual + rms_norm(x), the norm rounded to y's type before the sum. The backward is
// RmsNormBackward: what arrives at y is the residual's gradient as it is.
#pragma once
#include "norm/rms_norm.h"

namespace liger {

using RmsNormAddForwardSpec = RmsNormForwardSpec;

template <RmsNormAddForwardSpec S>
struct RmsNormAddForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = RowShare<Row, S.hidden, S.align_bytes, S.hold, Type<S.x>>;
  using Norm = RmsRow<Row, S.hidden, S.align_bytes, S.has_weight, S.round_early, Type<S.x>>;

  const Type<S.x>* x;
  const Type<S.x>* residual;
  const Type<S.weight>* weight;
  Type<S.y>* y;
  A* rstd;  // null: not kept
  long long rows;
  long long x_stride;
  long long residual_stride;
  double eps;
  double offset;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const Share values(x + row * x_stride, thread);
      const Share added(residual + row * residual_stride, thread);
      const A r =
          Norm::rstd(thread, eps, [&](int slot, int pack) { return values.at(slot, pack); });
      if (!active) return;
      Row::each(thread, [&](int slot, int pack) {
        const auto v = Norm::rounded(values.at(slot, pack) * r);
        const auto normed = rounded_to<Type<S.y>>(Norm::weighted(v, weight, pack, offset));
        store_pack<S.hidden, S.align_bytes>(y + row * S.hidden, pack,
                                            added.at(slot, pack) + normed);
      });
      if (thread == 0 && rstd) rstd[row] = r;
    });
  }
};

}  // namespace liger
