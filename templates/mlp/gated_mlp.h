// The middle of a gated MLP's backward: from the gradient of act(gate) * up to those of gate and
// up, which may overwrite them. The forward did not keep the product itself; where its weight
// trains, it is made anew here and overwrites its own gradient.
#pragma once
#include "device/gate.h"
#include "device/row.h"

namespace liger {

struct GatedMlpBackwardSpec {
  GateSpec gate;
  bool product;  // is wanted
  int width;     // exact length of a row
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

template <GatedMlpBackwardSpec S>
struct GatedMlpBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using T = Type<S.gate.x>;
  using A = Arithmetic<S.gate.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;

  T* product;  // its gradient on entry
  const T* gate;
  const T* up;
  T* dgate;
  T* dup;
  long long rows;
  long long product_stride;
  long long gate_stride;
  long long up_stride;
  long long dgate_stride;
  long long dup_stride;
  double gate_multiplier;
  double down_multiplier;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (!active) return;
      Row::each(thread, [&](int, int pack) { one_pack(row, pack); });
    });
  }

 private:
  LIGER_DEVICE void one_pack(long long row, int pack) const {
    const Gate<S.gate> formula{A(gate_multiplier), A(down_multiplier), A(1.702), A(0)};
    T* const middle = product + row * product_stride;
    const auto d = load_pack<S.width, S.align_bytes, false>(middle, pack);
    const auto g = load_pack<S.width, S.align_bytes, false>(gate + row * gate_stride, pack);
    const auto u = load_pack<S.width, S.align_bytes, false>(up + row * up_stride, pack);
    const auto made = formula.gradients(d, g, u);
    store_pack<S.width, S.align_bytes>(dgate + row * dgate_stride, pack, made.of_gate);
    store_pack<S.width, S.align_bytes>(dup + row * dup_stride, pack, made.of_up);
    if constexpr (S.product) store_pack<S.width, S.align_bytes>(middle, pack, made.product);
  }
};

}  // namespace liger
