// Sums over rows of a norm's backward: each partial owns the rows p, p + P, p + 2P ... counted from
// the last, and adds them in that order, then ColumnSum adds the partials. No atomics, and P does
// not depend on what the tuner picks. The last rows come first because they are what the kernel
// before has left in the L2 cache.
#pragma once
#include "device/row.h"

namespace liger {

// Length of a partial's row in memory: padded, so that its packs are 16-byte aligned.
LIGER_DEVICE constexpr long long padded(long long columns) {
  return (columns + pack_size - 1) / pack_size * pack_size;
}

// Blocks of a multiprocessor that have all its partials, which are as many as `partial_rows` of
// ops/row_knobs.cpp says; fewer if each thread needs so many registers that they have no room.
template <int N, int Threads, int Rows>
LIGER_DEVICE constexpr int blocks_of_partials(int registers) {
  const int planned = (8192 + N / 2) / N;
  const int blocks = ((planned < 1 ? 1 : planned > 64 ? 64 : planned) + Rows - 1) / Rows;
  const int room = 65536 / (Threads * Rows * registers);
  return room < 1 ? 1 : (blocks < room ? blocks : room);
}

// One partial sum of a row's columns. Resident in registers, or kept in its memory when they cannot
// hold it. Nothing at all when it is not wanted.
template <class Row, int N, bool Resident, bool Wanted, class A, int AlignBytes = 16>
class ColumnAccumulator {
 public:
  // `memory` is the first partial's; each has padded(N) elements.
  LIGER_DEVICE ColumnAccumulator(A* memory, long long partial, int thread)
      : ColumnAccumulator(memory + partial * padded(N), thread) {}
  // `memory` is this partial's, which begins at a multiple of AlignBytes.
  LIGER_DEVICE ColumnAccumulator(A* memory, int thread) : memory_(memory) {
    if constexpr (Wanted) {
      Row::each(thread, [&](int slot, int pack) { put(slot, pack, filled(A(0))); });
    }
  }
  LIGER_DEVICE void add(int slot, int pack, const Pack<A>& values) {
    put(slot, pack, sum(slot, pack) + values);
  }
  LIGER_DEVICE void add_product(int slot, int pack, const Pack<A>& a, const Pack<A>& b) {
    put(slot, pack, fused(a, b, sum(slot, pack)));
  }
  LIGER_DEVICE void write(int thread) const {
    if constexpr (Resident && Wanted) {
      Row::each(thread, [&](int slot, int pack) {
        store_pack<N, AlignBytes>(memory_, pack, packs_[slot]);
      });
    }
  }

 private:
  LIGER_DEVICE Pack<A> sum(int slot, int pack) const {
    if constexpr (Resident) return packs_[slot];
    return load_pack<N, AlignBytes, false>(memory_, pack);
  }
  LIGER_DEVICE void put(int slot, int pack, const Pack<A>& values) {
    if constexpr (Resident) {
      packs_[slot] = values;
    } else {
      store_pack<N, AlignBytes>(memory_, pack, values);
    }
  }
  A* memory_;
  Pack<A> packs_[Resident && Wanted ? Row::slots : 1];
};

// One partial sum of a number of each row, which its packs add up to. Resident: each pack has a sum
// of its own, and the packs meet once, in meet(). Otherwise they meet in every row.
template <class Row, bool Resident, bool Wanted, class A>
class RowTotal {
 public:
  // Adds f(slot, pack) of all packs, in which the caller does its own work too. All threads of the
  // block come here, also those without a row, and f gives zero there.
  template <class F>
  LIGER_DEVICE void add(int buffer, int thread, F&& f) {
    if constexpr (Resident || !Wanted) {
      Row::each(thread, [&](int slot, int pack) {
        const A value = f(slot, pack);
        if constexpr (Wanted) sums_[slot] += value;
      });
    } else {
      sums_[0] += Row::template sum<A>(buffer, thread, f);
    }
  }
  // All threads of the block come here, once, after the last row.
  LIGER_DEVICE void meet(int thread) {
    if constexpr (Resident && Wanted) {
      sums_[0] = Row::template combined<A>(thread, [&](int slot, int) { return sums_[slot]; });
    }
  }
  LIGER_DEVICE A total() const { return sums_[0]; }

 private:
  A sums_[Resident && Wanted ? Row::slots : 1] = {};
};

// One turn of a partial. A group of threads without a row goes along inactive, because barriers are
// for all.
struct Turn {
  long long row;
  int thread;
  bool active;
  int buffer;
};

// For sums whose threads need not meet.
struct NoMeeting {
  template <class Sums>
  LIGER_DEVICE void operator()(Sums&, int) const {}
};

// f(turn, what read(row, thread) gave, partial) for the rows of each of the block's `Rows`
// partials; begin(partial, thread) makes what f adds to, meet(partial, thread) is where all threads
// of the block come after the last row, end finishes it. A row is read a turn ahead, so that its
// way from memory hides the barrier of the row before.
template <int Threads, int Rows, class Begin, class Read, class F, class End,
          class Meet = NoMeeting>
LIGER_DEVICE void each_partial(long long block, long long rows, long long partials, Begin&& begin,
                               Read&& read, F&& f, End&& end, Meet&& meet = {}) {
  const int groups = on_host ? Rows : 1;
  for (int group = 0; group < groups; ++group) {
    const long long partial =
        block * Rows + (on_host ? group : (Rows == 1 ? 0 : thread_index() / Threads));
    const int thread = Rows == 1 ? thread_index() : thread_index() % Threads;
    if (on_host && partial >= partials) return;
    auto sums = begin(partial < partials ? partial : partials - 1, thread);
    // The bound is that of the block's first partial: all its threads take the same number of
    // turns.
    const long long first = on_host ? partial : block * Rows;
    if (first >= rows || first >= partials) {  // no turn at all
      if (partial < partials) end(sums, thread);
      continue;
    }
    const auto turn_from = [&](long long base) {
      const long long from_end = base + (partial - first);
      // Asked also where a block of one partial has a row in each of its turns: the branch that
      // follows keeps the compiler from moving the next row's loads behind it, and so behind the
      // barrier.
      const bool active = from_end < rows && partial < partials;
      return Turn{active ? rows - 1 - from_end : 0, thread, active, 0};
    };
    Turn next = turn_from(first);
    auto next_read = read(next.row, thread);
    for (long long base = first; base < rows; base += partials) {
      const Turn turn = next;
      const auto row = next_read;
      // The last turn reads its own row again, out of the cache: a branch here would hold up the
      // loads.
      next = turn_from(base + partials < rows ? base + partials : base);
      next.buffer = 1 - turn.buffer;
      next_read = read(next.row, thread);
      f(turn, row, sums);
    }
    meet(sums, thread);
    if (partial < partials) end(sums, thread);
  }
}

}  // namespace liger
