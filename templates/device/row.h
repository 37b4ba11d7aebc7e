// A row of N elements over a power-of-two number of threads.
//
// Packs are dealt to `lanes` (at most 1024): lane l has packs l, l + lanes, l + 2 lanes ... A
// thread owns every Threads-th lane. Lanes depend on N alone, so what a lane sums, in which order,
// and how lanes are combined does not depend on the number of threads.
#pragma once
#include "device/reduce.h"

namespace liger {

LIGER_DEVICE constexpr int power_of_two_from(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

//
// Held: the caller keeps its packs in registers, which are found by constant indices, so all is
// unrolled. Otherwise a few packs are in flight at once: more would spill, and long rows would take
// long to compile.
template <int N, int Threads, int Rows = 1, bool Held = false>
struct RowOf {
  static_assert(Threads == power_of_two_from(Threads) && Threads <= 1024,
                "threads of a row: a power of two up to 1024");
  static constexpr int packs = (N + pack_size - 1) / pack_size;
  static constexpr int lanes = power_of_two_from(packs) < 1024 ? power_of_two_from(packs) : 1024;
  static constexpr int owned = lanes > Threads ? lanes / Threads : 1;  // lanes of one thread
  static constexpr int rounds = (packs + lanes - 1) / lanes;
  static constexpr int slots = rounds * owned;  // packs of one thread at most
  static constexpr int in_flight = Held ? slots : (Threads >= 512 ? 2 : 4);
  static constexpr int rounds_in_flight = in_flight > owned ? in_flight / owned : 1;

  // f(slot, pack) for each pack of this thread, in the order of the sum.
  template <class F>
  static LIGER_DEVICE void each(int thread, F&& f) {
    if constexpr (on_host) {
      whole_packs([&](int, int pack) { f(pack, pack); });
      if (N % pack_size != 0) f(packs - 1, packs - 1);
    } else {
      LIGER_UNROLL_BY(in_flight) for (int slot = 0; slot < slots; ++slot) {
        const int pack = slot / owned * lanes + slot % owned * Threads + thread;
        if (pack < packs) f(slot, pack);
      }
    }
  }

  // The row's combination of f(slot, pack), with V{} where nothing is; every thread gets it.
  template <class V, class F, class Combine = Add>
  static LIGER_DEVICE V combined(int thread, F&& f, Combine combine = {}, V empty = {}) {
    V of_lane[owned];
    LIGER_UNROLL for (int lane = 0; lane < owned; ++lane) of_lane[lane] = empty;
    if constexpr (on_host) {
      const auto add = [&](int lane, int pack) {
        of_lane[lane] = combine(of_lane[lane], f(pack, pack));
      };
      whole_packs(add);
      if (N % pack_size != 0) add((packs - 1) % lanes, packs - 1);
    } else {
      LIGER_UNROLL_BY(rounds_in_flight) for (int round = 0; round < rounds; ++round) {
        LIGER_UNROLL for (int lane = 0; lane < owned; ++lane) {
          const int pack = round * lanes + lane * Threads + thread;
          if (pack < packs) of_lane[lane] = combine(of_lane[lane], f(round * owned + lane, pack));
        }
      }
    }
    fold<owned>(of_lane, combine);
    return across_threads<Threads, Rows>(of_lane[0], combine);
  }

 private:
  // On the host a pack that may be ragged comes alone, so that loops over the others become vector
  // code.
  template <class F>
  static LIGER_DEVICE void whole_packs(F&& f) {
    constexpr int whole = N / pack_size;
    for (int first = 0; first < whole; first += lanes) {
      const int end = whole - first < lanes ? whole - first : lanes;
      for (int lane = 0; lane < end; ++lane) {
        if (first + lane >= whole) __builtin_unreachable();
        f(lane, first + lane);
      }
    }
  }
};

// Eight elements of a row; elements past its end are `missing`.
template <int N, int AlignBytes, bool Constant = true, class T>
LIGER_DEVICE Pack<typename ArithmeticOf<T>::Type> load_pack(
    const T* row, int pack, typename ArithmeticOf<T>::Type missing = 0) {
  if (N % pack_size == 0 || pack < N / pack_size) {
    return load<AlignBytes, Constant>(row + static_cast<long long>(pack) * pack_size);
  }
  Pack<typename ArithmeticOf<T>::Type> result;
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
    const int column = pack * pack_size + i;
    result.v[i] = column < N ? widen(row[column]) : missing;
  }
  return result;
}

template <int N, int AlignBytes, class T, class A>
LIGER_DEVICE void store_pack(T* row, int pack, const Pack<A>& values) {
  if (N % pack_size == 0 || pack < N / pack_size) {
    store<AlignBytes>(row + static_cast<long long>(pack) * pack_size, values);
    return;
  }
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
    const int column = pack * pack_size + i;
    if (column < N) row[column] = narrow<T>(values.v[i]);
  }
}

// The values with zeros past the end of the row.
template <int N, class A>
LIGER_DEVICE Pack<A> without_missing(int pack, Pack<A> values) {
  if (N % pack_size != 0 && pack == N / pack_size) {
    LIGER_UNROLL for (int i = N % pack_size; i < pack_size; ++i) values.v[i] = A(0);
  }
  return values;
}

// One thread's share of a row of T. Held: read once and kept in registers. Not held: read anew at
// each use, for rows that registers cannot hold, and on the host, where the row stays in the L1
// cache.
template <class Row, int N, int AlignBytes, bool Held, class T>
class RowShare {
 public:
  using A = typename ArithmeticOf<T>::Type;
  LIGER_DEVICE RowShare(const T* row, int thread) : row_(row) {
    if constexpr (Held) {
      Row::each(thread,
                [&](int slot, int pack) { packs_[slot] = load_pack<N, AlignBytes>(row, pack); });
    }
  }
  LIGER_DEVICE Pack<A> at(int slot, int pack) const {
    if constexpr (Held) return packs_[slot];
    return load_pack<N, AlignBytes>(row_, pack);
  }

 private:
  const T* row_;
  Pack<A> packs_[Held ? Row::slots : 1];
};

// f(row, thread of the row, active). On a GPU each group of `Threads` threads takes one of the
// block's `Rows` rows; a group past the end goes along inactive, because barriers are for all. On
// the host the one thread takes them in turn.
template <int Threads, int Rows, class F>
LIGER_DEVICE void each_row(long long block, long long rows, F&& f) {
  if constexpr (on_host) {
    for (long long row = block * Rows; row < block * Rows + Rows && row < rows; ++row)
      f(row, 0, true);
  } else {
    const long long row = block * Rows + thread_index() / Threads;
    f(row < rows ? row : rows - 1, thread_index() % Threads, row < rows);
  }
}

LIGER_DEVICE constexpr int threads_of_block(int threads, int rows) {
  return on_host ? 1 : threads * rows;
}

}  // namespace liger
