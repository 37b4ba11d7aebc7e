// sum = x + residual, rounded to their type; y = layer_norm(sum). The backward is
// LayerNormBackward.
#pragma once
#include "device/sum_share.h"
#include "norm/layer_norm.h"

namespace liger {

using FusedAddLayerNormForwardSpec = LayerNormForwardSpec;

template <FusedAddLayerNormForwardSpec S>
struct FusedAddLayerNormForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = SumShare<Row, S.hidden, S.align_bytes, S.hold, T>;

  const T* x;
  const T* residual;
  const Type<S.weight>* weight;
  const Type<S.bias>* bias;
  T* y;
  T* sum;
  A* mean;
  A* rstd;  // null: not kept
  long long rows;
  long long x_stride;
  long long residual_stride;
  double eps;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      Share total(x + row * x_stride, residual + row * residual_stride, sum + row * S.hidden,
                  active);
      const auto of_row = layer_statistics<Row, S.hidden, A>(
          [&](int slot, int pack) { return total.made(slot, pack); },
          [&](int slot, int pack) { return total.at(slot, pack); }, thread, eps);
      if (!active) return;
      Row::each(thread, [&](int slot, int pack) {
        const auto v = of_row.normalised(total.at(slot, pack));
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

}  // namespace liger
