// The kernels of y = act(gate) * up and its gradients. Gate and up are tensors of their own, the
// halves of the rows of one, or take turns in them.
#pragma once
#include "device/gate.h"
#include "device/row.h"

namespace liger {

constexpr int apart = 0;
constexpr int halves = 1;
constexpr int in_turns = 2;

struct GatedSpec {
  GateSpec gate;
  int packing;  // one of these
  int width;    // exact, of gate
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

// Reads and writes the packs of gate and up where they are in memory.
template <GatedSpec S>
struct PackedPair {
  using A = Arithmetic<S.gate.x>;
  using T = Type<S.gate.x>;

  Pack<A> gate;
  Pack<A> up;

  // The last pack of gate and up may stand in one.
  static LIGER_DEVICE bool has_second(int pack) {
    constexpr int last = S.width / pack_size;
    return S.width % pack_size == 0 || S.width % pack_size > pack_size / 2 || pack < last;
  }

  // `up_row` counts only if they are apart; `Constant` as in load().
  template <bool Constant = true>
  static LIGER_DEVICE PackedPair loaded(const T* gate_row, const T* up_row, int pack) {
    if constexpr (S.packing == in_turns) {
      const auto first = load_pack<2 * S.width, S.align_bytes, Constant>(gate_row, 2 * pack);
      const auto second =
          has_second(pack) ? load_pack<2 * S.width, S.align_bytes, Constant>(gate_row, 2 * pack + 1)
                           : filled(A(0));
      PackedPair pair;
      LIGER_UNROLL for (int i = 0; i < pack_size / 2; ++i) {
        pair.gate.v[i] = first.v[2 * i];
        pair.up.v[i] = first.v[2 * i + 1];
        pair.gate.v[i + pack_size / 2] = second.v[2 * i];
        pair.up.v[i + pack_size / 2] = second.v[2 * i + 1];
      }
      return pair;
    } else {
      if constexpr (S.packing == halves) up_row = gate_row + S.width;
      return {load_pack<S.width, S.align_bytes, Constant>(gate_row, pack),
              load_pack<S.width, S.align_bytes, Constant>(up_row, pack)};
    }
  }

  LIGER_DEVICE void store(T* gate_row, T* up_row, int pack) const {
    if constexpr (S.packing == in_turns) {
      Pack<A> first, second;
      LIGER_UNROLL for (int i = 0; i < pack_size / 2; ++i) {
        first.v[2 * i] = gate.v[i];
        first.v[2 * i + 1] = up.v[i];
        second.v[2 * i] = gate.v[i + pack_size / 2];
        second.v[2 * i + 1] = up.v[i + pack_size / 2];
      }
      store_pack<2 * S.width, S.align_bytes>(gate_row, 2 * pack, first);
      if (has_second(pack)) store_pack<2 * S.width, S.align_bytes>(gate_row, 2 * pack + 1, second);
    } else {
      if constexpr (S.packing == halves) up_row = gate_row + S.width;
      store_pack<S.width, S.align_bytes>(gate_row, pack, gate);
      store_pack<S.width, S.align_bytes>(up_row, pack, up);
    }
  }
};

template <GatedSpec S>
struct GatedForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using T = Type<S.gate.x>;
  using A = Arithmetic<S.gate.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;
  using Pair = PackedPair<S>;

  const T* gate;
  const T* up;
  T* y;
  long long rows;
  long long gate_stride;
  long long up_stride;
  double gate_multiplier;
  double down_multiplier;
  double alpha;
  double limit;

  LIGER_DEVICE void operator()(long long block) const {
    const Gate<S.gate> formula{A(gate_multiplier), A(down_multiplier), A(alpha), A(limit)};
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (!active) return;
      const T* const gate_row = gate + row * gate_stride;
      const T* const up_row = up + row * up_stride;
      Row::each(thread, [&](int, int pack) {
        const auto pair = Pair::loaded(gate_row, up_row, pack);
        store_pack<S.width, S.align_bytes>(y + row * S.width, pack,
                                           formula.value(pair.gate, pair.up));
      });
    });
  }
};

template <GatedSpec S>
struct GatedBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using T = Type<S.gate.x>;
  using A = Arithmetic<S.gate.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;
  using Pair = PackedPair<S>;
  static constexpr int written_width = S.packing == apart ? S.width : 2 * S.width;

  const T* dy;
  const T* gate;
  const T* up;
  T* dgate;
  T* dup;
  long long rows;
  long long dy_stride;
  long long gate_stride;
  long long up_stride;
  double gate_multiplier;
  double down_multiplier;
  double alpha;
  double limit;

  LIGER_DEVICE void operator()(long long block) const {
    const Gate<S.gate> formula{A(gate_multiplier), A(down_multiplier), A(alpha), A(limit)};
    each_row_from_the_end<S.threads, S.rows>(
        block, rows, [&](long long row, int thread, bool active) {
          if (!active) return;
          const T* const gate_row = gate + row * gate_stride;
          const T* const up_row = up + row * up_stride;
          Row::each(thread, [&](int, int pack) {
            const auto d = load_pack<S.width, S.align_bytes>(dy + row * dy_stride, pack);
            const auto pair = Pair::loaded(gate_row, up_row, pack);
            const auto made = formula.gradients(d, pair.gate, pair.up);
            Pair{made.of_gate, made.of_up}.store(dgate + row * written_width,
                                                 dup + row * written_width, pack);
          });
        });
  }
};

}  // namespace liger
