// sum = x + residual, rounded to their type; y = rms_norm(sum). The backward is RmsNormBackward.
#pragma once
#include "norm/rms_norm.h"

namespace liger {

struct FusedAddRmsNormForwardSpec {
  Dtype x;
  Dtype weight;
  Dtype y;
  bool has_weight;
  bool round_early;
  int hidden;
  int align_bytes;
  bool hold;
  int threads;  // tuned
  int rows;     // tuned
};

template <FusedAddRmsNormForwardSpec S>
struct FusedAddRmsNormForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RowOf<S.hidden, S.threads, S.rows, S.hold>;
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
      Pack<A> held[S.hold ? Row::slots : 1];
      const A r = Norm::rstd(thread, eps, [&](int slot, int pack) {
        const auto added =
            load_pack<S.hidden, S.align_bytes>(x + row * x_stride, pack) +
            load_pack<S.hidden, S.align_bytes>(residual + row * residual_stride, pack);
        const auto v = rounded_to<T>(added);
        if (active) store_pack<S.hidden, S.align_bytes>(sum + row * S.hidden, pack, v);
        if constexpr (S.hold) held[slot] = v;
        return v;
      });
      if (!active) return;
      Row::each(thread, [&](int slot, int pack) {
        Pack<A> v;
        if constexpr (S.hold) {
          v = held[slot];
        } else {
          v = load_pack<S.hidden, S.align_bytes, false>(sum + row * S.hidden, pack);
        }
        v = Norm::rounded(v * r);
        store_pack<S.hidden, S.align_bytes>(y + row * S.hidden, pack,
                                            Norm::weighted(v, weight, pack, offset));
      });
      if (thread == 0 && rstd) rstd[row] = r;
    });
  }
};

}  // namespace liger
