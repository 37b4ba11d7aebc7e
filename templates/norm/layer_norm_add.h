// y = residual + layer_norm(x), the norm rounded before the sum. The backward is LayerNormBackward:
// what arrives at y is the residual's gradient as it is.
#pragma once
#include "norm/layer_norm.h"

namespace liger {

using LayerNormAddForwardSpec = LayerNormForwardSpec;

template <LayerNormAddForwardSpec S>
struct LayerNormAddForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Share = RowShare<Row, S.hidden, S.align_bytes, S.hold, T>;

  const T* x;
  const T* residual;
  const Type<S.weight>* weight;
  const Type<S.bias>* bias;
  T* y;
  A* mean;
  A* rstd;  // null: not kept
  long long rows;
  long long x_stride;
  long long residual_stride;
  double eps;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const Share values(x + row * x_stride, thread);
      const Share added(residual + row * residual_stride, thread);
      const auto of_row = layer_statistics<Row, S.hidden, A>(values, thread, eps);
      if (!active) return;
      Row::each(thread, [&](int slot, int pack) {
        const auto v = of_row.normalised(values.at(slot, pack));
        const auto normed = rounded_to<T>(
            affine<S.hidden, S.align_bytes, S.has_weight, S.has_bias>(v, weight, bias, pack));
        store_pack<S.hidden, S.align_bytes>(y + row * S.hidden, pack,
                                            added.at(slot, pack) + normed);
      });
      if (thread == 0 && rstd) {
        mean[row] = of_row.mean();
        rstd[row] = of_row.rstd;
      }
    });
  }
};

}  // namespace liger
