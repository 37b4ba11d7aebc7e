// The middle of a gated MLP's backward: from the gradient of act(gate) * up to those of gate and
// up, which may overwrite them. The forward did not keep the product itself; where its weight
// trains, it is made anew here and overwrites its own gradient.
#pragma once
#include "device/gated.h"

namespace liger {

struct GatedMlpSpec {
  Dtype x;
  bool product;  // is wanted
  int width;     // exact length of a row
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

template <GatedMlpSpec S, class Activation>
struct GatedMlpBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
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

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (!active) return;
      Row::each(thread, [&](int, int pack) { one_pack(row, pack); });
    });
  }

 private:
  LIGER_DEVICE void one_pack(long long row, int pack) const {
    T* const middle = product + row * product_stride;
    const auto d = load_pack<S.width, S.align_bytes, false>(middle, pack);
    const auto g = load_pack<S.width, S.align_bytes, false>(gate + row * gate_stride, pack);
    const auto u = load_pack<S.width, S.align_bytes, false>(up + row * up_stride, pack);
    const auto made = gated_gradients<T, Activation, wants_exact(S.x)>(d, g, u);
    store_pack<S.width, S.align_bytes>(dgate + row * dgate_stride, pack, made.of_gate);
    store_pack<S.width, S.align_bytes>(dup + row * dup_stride, pack, made.of_up);
    if constexpr (S.product) store_pack<S.width, S.align_bytes>(middle, pack, made.activation * u);
  }
};

using GatedMlpSiluBackwardSpec = GatedMlpSpec;
using GatedMlpGeluTanhBackwardSpec = GatedMlpSpec;
using GatedMlpGeluErfBackwardSpec = GatedMlpSpec;

template <GatedMlpSiluBackwardSpec S>
struct GatedMlpSiluBackward : GatedMlpBackward<S, Silu> {};
template <GatedMlpGeluTanhBackwardSpec S>
struct GatedMlpGeluTanhBackward : GatedMlpBackward<S, GeluTanh> {};
template <GatedMlpGeluErfBackwardSpec S>
struct GatedMlpGeluErfBackward : GatedMlpBackward<S, GeluErf> {};

}  // namespace liger
