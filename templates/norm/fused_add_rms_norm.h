// sum = x + residual, rounded to their type; y = rms_norm(sum). The backward is RmsNormBackward.
#pragma once
#include "device/sum_share.h"
#include "norm/rms_norm.h"

namespace liger {

using FusedAddRmsNormForwardSpec = RmsNormForwardSpec;

template <FusedAddRmsNormForwardSpec S>
struct FusedAddRmsNormForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = SumShare<Row, S.hidden, S.align_bytes, S.hold, T>;
  using Norm = RmsRow<Row, S.hidden, S.align_bytes, S.has_weight, S.round_early, T>;

  const T* x;
  const T* residual;
  const Type<S.weight>* weight;
  Type<S.y>* y;
  T* sum;
  A* rstd;  // null: not kept
  long long rows;
  long long x_stride;
  long long residual_stride;
  double eps;
  double offset;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      Share total(x + row * x_stride, residual + row * residual_stride, sum + row * S.hidden,
                  active);
      const A r =
          Norm::rstd(thread, eps, [&](int slot, int pack) { return total.made(slot, pack); });
      if (!active) return;
      Row::each(thread, [&](int slot, int pack) {
        const auto v = Norm::rounded(total.at(slot, pack) * r);
        store_pack<S.hidden, S.align_bytes>(y + row * S.hidden, pack,
                                            Norm::weighted(v, weight, pack, offset));
      });
      if (thread == 0 && rstd) rstd[row] = r;
    });
  }
};

}  // namespace liger
