// Sums over rows of a norm's backward: each partial owns rows p, p + P, p + 2P ... and adds them in
// that order, then ColumnSum adds the partials. No atomics, and P does not depend on what the tuner
// picks.
#pragma once
#include "device/row.h"

namespace liger {

// Length of a partial's row in memory: padded, so that its packs are 16-byte aligned.
LIGER_DEVICE constexpr long long padded(long long columns) {
  return (columns + pack_size - 1) / pack_size * pack_size;
}

// One partial sum of a row's columns. Held in registers, or kept in its memory when they cannot
// hold it. Nothing at all when it is not wanted.
template <class Row, int N, bool Held, bool Wanted, class A>
class ColumnAccumulator {
 public:
  // `memory` is the first partial's; each has padded(N) elements.
  LIGER_DEVICE ColumnAccumulator(A* memory, long long partial, int thread)
      : memory_(memory + partial * padded(N)) {
    if constexpr (Wanted) {
      Row::each(thread, [&](int slot, int pack) { put(slot, pack, filled(A(0))); });
    }
  }
  LIGER_DEVICE void add(int slot, int pack, const Pack<A>& values) {
    if constexpr (Held) {
      packs_[slot] = packs_[slot] + values;
    } else {
      put(slot, pack, load_pack<N, 16, false>(memory_, pack) + values);
    }
  }
  LIGER_DEVICE void write(int thread) const {
    if constexpr (Held && Wanted) {
      Row::each(thread,
                [&](int slot, int pack) { store_pack<N, 16>(memory_, pack, packs_[slot]); });
    }
  }

 private:
  LIGER_DEVICE void put(int slot, int pack, const Pack<A>& values) {
    if constexpr (Held) {
      packs_[slot] = values;
    } else {
      store_pack<N, 16>(memory_, pack, values);
    }
  }
  A* memory_;
  Pack<A> packs_[Held && Wanted ? Row::slots : 1];
};

// f(row, thread, active, partial) for the rows of each of the block's `Rows` partials;
// begin(partial, thread) makes what f adds to, end finishes it.
template <int Threads, int Rows, class Begin, class F, class End>
LIGER_DEVICE void each_partial(long long block, long long rows, long long partials, Begin&& begin,
                               F&& f, End&& end) {
  const int groups = on_host ? Rows : 1;
  for (int group = 0; group < groups; ++group) {
    const long long partial = block * Rows + (on_host ? group : thread_index() / Threads);
    const int thread = on_host ? 0 : thread_index() % Threads;
    if (on_host && partial >= partials) return;
    auto sums = begin(partial < partials ? partial : partials - 1, thread);
    // The bound is that of the block's first partial: all its threads take the same number of
    // turns.
    const long long first = on_host ? partial : block * Rows;
    for (long long base = first; base < rows; base += partials) {
      const long long row = base + (partial - first);
      const bool active = row < rows && partial < partials;
      f(active ? row : rows - 1, thread, active, sums);
    }
    if (partial < partials) end(sums, thread);
  }
}

}  // namespace liger
