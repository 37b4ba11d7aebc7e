// The middle of the backward of experts, for each row of one of them: from dact = dy @ down, not
// yet times the routing weight w, the gradients
//   d(gate, up) = w * dact through the gate,
//   dw = dact . act(gate, up) + dy . bias of the down projection,
// and, over dact, w * act(gate, up), which the gradient of the down projection needs. So the
// forward keeps neither the product of gate and up nor that of the down projection.
#pragma once
#include "device/gated.h"

namespace liger {

struct ExpertsMiddleSpec {
  GateSpec gate;
  int packing;  // halves or in_turns
  Dtype weight;
  Dtype index;
  bool product;    // is wanted
  bool dgate_up;   // is wanted
  bool dweights;   // is wanted
  bool biased;     // the down projection has a bias
  int width;       // of the product
  int down_width;  // of dy
  int align_bytes;
  int down_align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

template <ExpertsMiddleSpec S>
struct ExpertsMiddle {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr GatedSpec packed{S.gate, S.packing, S.width, S.align_bytes, S.threads, S.rows};
  using T = Type<S.gate.x>;
  using A = Arithmetic<S.gate.x>;
  using W = Type<S.weight>;
  using Pair = PackedPair<packed>;
  using Row = RowOf<S.width, S.threads, S.rows>;
  using DownRow = RowOf<S.down_width, S.threads, S.rows>;

  T* product;  // dact on entry
  const T* gate_up;
  T* dgate_up;  // may be gate_up
  const W* weights;
  W* dweights;
  const Type<S.index>* indices;
  const int* order;
  const T* dy;  // of tokens
  const T* bias;
  long long pairs;
  long long num_experts;
  long long slots;
  long long product_stride;
  long long gate_up_stride;
  long long dgate_up_stride;
  long long dy_stride;
  long long bias_stride;
  double alpha;
  double limit;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, pairs, [&](long long row, int thread, bool active) {
      const long long pair = order[row];
      const long long expert = indices[pair];
      const bool present = active && expert >= 0 && expert < num_experts;
      const A weight = A(widen(weights[pair]));
      if constexpr (S.dweights) {
        A dot = Row::template combined<A>(
            thread, [&](int, int pack) { return present ? one_pack(row, pack, weight) : A(0); });
        if constexpr (S.biased) dot += dot_of_bias(thread, pair, present ? expert : 0);
        if (active && thread == 0)
          dweights[pair] = narrow<W>(typename ArithmeticOf<W>::Type(present ? dot : A(0)));
      } else if (present) {
        Row::each(thread, [&](int, int pack) { one_pack(row, pack, weight); });
      }
    });
  }

 private:
  // Returns what its columns give to dw.
  LIGER_DEVICE A one_pack(long long row, int pack, A weight) const {
    const Gate<S.gate> formula{A(1), A(1), A(alpha), A(limit)};
    T* const middle = product + row * product_stride;
    const auto dact = load_pack<S.width, S.align_bytes, false>(middle, pack);
    const auto pair = Pair::template loaded<false>(gate_up + row * gate_up_stride, nullptr, pack);
    const auto made = formula.gradients(dact * weight, pair.gate, pair.up);
    if constexpr (S.dgate_up)
      Pair{made.of_gate, made.of_up}.store(dgate_up + row * dgate_up_stride, nullptr, pack);
    if constexpr (S.product)
      store_pack<S.width, S.align_bytes>(middle, pack, made.product * weight);
    return total(without_missing<S.width>(pack, dact * made.product));
  }

  LIGER_DEVICE A dot_of_bias(int thread, long long pair, long long expert) const {
    const T* const dy_row = dy + pair / slots * dy_stride;
    const T* const bias_row = bias + expert * bias_stride;
    return DownRow::template combined<A>(thread, [&](int, int pack) {
      return total(load_pack<S.down_width, S.down_align_bytes>(dy_row, pack) *
                   load_pack<S.down_width, S.down_align_bytes>(bias_row, pack));
    });
  }
};

}  // namespace liger
