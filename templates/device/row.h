// A row of N elements over a number of threads.
//
// Packs are dealt to `accumulator_count` (at most 1024): accumulator l has packs l, l +
// accumulator_count, l + 2 accumulator_count ... A thread owns every Threads-th accumulator.
// Accumulators depend on N alone, so what an accumulator sums, in which order, and how accumulators
// are combined does not depend on the number of threads.
#pragma once
#include "device/reduce.h"

namespace liger {

// How sums of lanes go on: as they are, or in double. No lambdas: NVRTC 13.0 refuses those with a
// parameter of any type even in what a GPU leaves out.
struct AsTheyAre {
  template <class Lanes>
  LIGER_DEVICE Lanes operator()(const Lanes& lanes) const {
    return lanes;
  }
};
struct InDouble {
  template <class Lanes>
  LIGER_DEVICE auto operator()(const Lanes& lanes) const {
    return in_double(lanes);
  }
};

//
// Resident: the caller keeps its packs in registers, which are found by constant indices, so all is
// unrolled. Otherwise a few packs are in flight at once: more would spill, and long rows would take
// long to compile.
template <int N, int Threads, int Rows = 1, bool Resident = false>
struct RowOf {
  static constexpr int packs = (N + pack_size - 1) / pack_size;
  static constexpr int accumulator_count =
      power_of_two_from(packs) < 1024 ? power_of_two_from(packs) : 1024;
  static constexpr int used = packs < accumulator_count ? packs : accumulator_count;
  static constexpr int owned = (used + Threads - 1) / Threads;  // accumulators of one thread
  static constexpr int rounds = (packs + accumulator_count - 1) / accumulator_count;
  static constexpr int slots = rounds * owned;  // packs of one thread at most
  static constexpr int in_flight = Resident ? slots : (Threads >= 512 ? 2 : 4);
  static constexpr int rounds_in_flight = in_flight > owned ? in_flight / owned : 1;
  static_assert(Threads <= 1024 && (Threads % team_lanes == 0 || team_lanes % Threads == 0),
                "threads of a row: whole teams, or a power of two below one");
  static_assert(rounds == 1 || accumulator_count % Threads == 0,
                "threads of a long row: a power of two");

  // f(slot, pack) for each pack of this thread, in the order of the sum.
  template <class F>
  static LIGER_DEVICE void each(int thread, F&& f) {
    if constexpr (on_host) {
      whole_packs([&](int, int pack) { f(pack, pack); });
      if (N % pack_size != 0) f(packs - 1, packs - 1);
    } else {
      assume(thread >= 0 && thread < Threads);  // spares whole packs their check
      LIGER_UNROLL_BY(in_flight) for (int slot = 0; slot < slots; ++slot) {
        const int pack = slot / owned * accumulator_count + slot % owned * Threads + thread;
        if (pack < packs) f(slot, pack);
      }
    }
  }

  // The row's combination of f(slot, pack), with V{} where nothing is; every thread gets it.
  template <class V, class F, class Combine = Add>
  static LIGER_DEVICE V combined(int thread, F&& f, Combine combine = {}, V empty = {}) {
    return combined_in<true, V>(0, thread, f, combine, empty);
  }

  // The same for a sum, without waiting: sums that follow one another take buffers 0 and 1 in turn.
  template <class V, class F>
  static LIGER_DEVICE V sum(int buffer, int thread, F&& f) {
    return combined_in<false, V>(buffer, thread, f, Add{}, V{});
  }

  // The same of all elements of the packs that f(slot, pack) gives, one or several at once. What a
  // pack adds up to is one number at the end of the row on the host, else at once.
  template <class V, class F>
  static LIGER_DEVICE V sum_of_elements(int buffer, int thread, F&& f) {
    return elements_added_in<false, false, V>(buffer, thread, f);
  }
  // The same of an f that is long.
  template <class V, class F>
  static LIGER_DEVICE V sum_of_made(int buffer, int thread, F&& f) {
    return elements_added_in<false, true, V>(buffer, thread, f);
  }

  // As `combined` and `sum` of such elements, of an f that is long.
  template <class V, class F, class Combine>
  static LIGER_DEVICE V combined_elements(int thread, F&& f, Combine combine, V empty) {
    if constexpr (on_host) {
      const auto at = [&](int pack) { return f(pack, pack); };
      const auto lanes = by_position<true>(at, combine, filled(empty), AsTheyAre{});
      return liger::combined(as_packs(lanes), combine);
    } else {
      return combined<V>(
          thread, [&](int slot, int pack) { return liger::combined(f(slot, pack), combine); },
          combine, empty);
    }
  }
  template <class V, class F>
  static LIGER_DEVICE V sum_of_made(int thread, F&& f) {
    return elements_added_in<true, true, V>(0, thread, f);
  }

 private:
  template <bool Waits, bool Once, class V, class F>
  static LIGER_DEVICE V elements_added_in(int buffer, int thread, F&& f) {
    if constexpr (on_host) {
      const auto at = [&](int pack) { return f(pack, pack); };
      const decltype(at(0)) nothing{};
      return rounded_sum<V>(total_of_lanes(by_position<Once>(at, Add{}, nothing, InDouble{})));
    } else {
      const auto of_pack = [&](int slot, int pack) { return total(f(slot, pack)); };
      return combined_in<Waits, V>(buffer, thread, of_pack, Add{}, V{});
    }
  }

  template <bool Waits, class V, class F, class Combine>
  static LIGER_DEVICE V combined_in(int buffer, int thread, F&& f, Combine combine, V empty) {
    V accumulators[power_of_two_from(owned)];
    LIGER_UNROLL for (V& value : accumulators) value = empty;
    if constexpr (on_host) {
      const auto add = [&](int index, int pack) {
        accumulators[index] = combine(accumulators[index], f(pack, pack));
      };
      whole_packs(add);
      if (N % pack_size != 0) add((packs - 1) % accumulator_count, packs - 1);
    } else {
      assume(thread >= 0 && thread < Threads);
      LIGER_UNROLL_BY(rounds_in_flight) for (int round = 0; round < rounds; ++round) {
        LIGER_UNROLL for (int index = 0; index < owned; ++index) {
          const int pack = round * accumulator_count + index * Threads + thread;
          if (pack < packs)
            accumulators[index] = combine(accumulators[index], f(round * owned + index, pack));
        }
      }
    }
    return across_accumulators<accumulator_count, Threads, Rows, power_of_two_from(owned), Waits>(
        accumulators, combine, empty, buffer);
  }

  // The packs f(pack) combined, each element with those of its position. Four chains, so that none
  // waits for itself, and short ones, for the sake of sums: what a few chains come to goes on as
  // widen() makes it. Once: f stands in the code once, for compilers call what is long rather than
  // have it four times; then the chains take turns.
  template <bool Once, class F, class Combine, class P, class Widen>
  static LIGER_DEVICE auto by_position(F&& f, Combine combine, const P& empty, Widen&& widen) {
    constexpr int chains = 4;
    constexpr int most = 8 * chains;
    constexpr int whole = N / pack_size;
    const auto nothing = in_lanes(empty);
    auto result = widen(nothing);
    for (int first = 0; first < whole; first += most) {
      const int end = whole - first < most ? whole : first + most;
      auto a = nothing, b = nothing, c = nothing, d = nothing;
      const auto add = [&](auto& chain, int pack) {
        if (pack >= whole) __builtin_unreachable();
        chain = combine(chain, in_lanes(f(pack)));
      };
      int pack = first;
      if constexpr (!Once) {
        for (; pack + chains <= end; pack += chains) {
          add(a, pack);
          add(b, pack + 1);
          add(c, pack + 2);
          add(d, pack + 3);
        }
      }
      for (; pack < end; ++pack) {
        add(a, pack);
        const auto last = a;
        a = b;
        b = c;
        c = d;
        d = last;
      }
      result = combine(result, widen(combine(combine(a, c), combine(b, d))));
    }
    if constexpr (N % pack_size != 0) result = combine(result, widen(in_lanes(f(packs - 1))));
    return result;
  }

  // On the host a pack that may be ragged comes alone, so that loops over the others become vector
  // code.
  template <class F>
  static LIGER_DEVICE void whole_packs(F&& f) {
    constexpr int whole = N / pack_size;
    for (int first = 0; first < whole; first += accumulator_count) {
      const int end = whole - first < accumulator_count ? whole - first : accumulator_count;
      for (int index = 0; index < end; ++index) {
        if (first + index >= whole) __builtin_unreachable();
        f(index, first + index);
      }
    }
  }
};

// Eight elements of a row, as they are in memory; elements past its end are zero.
template <int N, int AlignBytes, class T>
LIGER_DEVICE RawPack<T> load_raw_pack(const T* row, int pack) {
  if (N % pack_size == 0 || pack < N / pack_size) {
    return load_raw<AlignBytes>(row + static_cast<long long>(pack) * pack_size);
  }
  T elements[pack_size] = {};
  LIGER_UNROLL for (int i = 0; i < N % pack_size; ++i) elements[i] = row[pack * pack_size + i];
  RawPack<T> result;
  copy_bytes(result.words, elements, sizeof(elements));
  return result;
}

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

template <int N, int AlignBytes, class T>
LIGER_DEVICE void store_raw_pack(T* row, int pack, const RawPack<T>& values) {
  if (N % pack_size == 0 || pack < N / pack_size) {
    store_raw<AlignBytes>(row + static_cast<long long>(pack) * pack_size, values);
    return;
  }
  T elements[pack_size];
  copy_bytes(elements, values.words, sizeof(elements));
  LIGER_UNROLL for (int i = 0; i < N % pack_size; ++i) row[pack * pack_size + i] = elements[i];
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

// The values, from a column on that may lie before the row, with `missing` outside of it.
template <int N, class A>
LIGER_DEVICE Pack<A> present(int column, Pack<A> values, A missing) {
  if (column < 0 || column > N - pack_size) {
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      if (column + i < 0 || column + i >= N) values.v[i] = missing;
    }
  }
  return values;
}

// One thread's share of a row of T. Resident: read once and kept in registers, as it is in memory.
// Not held: read anew at each use, for rows that registers cannot hold, and on the host, where the
// row stays in the L1 cache.
template <class Row, int N, int AlignBytes, bool Resident, class T>
class RowShare {
 public:
  using A = typename ArithmeticOf<T>::Type;
  LIGER_DEVICE RowShare(const T* row, int thread) : row_(row) {
    if constexpr (Resident) {
      Row::each(thread, [&](int slot, int pack) {
        packs_[slot] = load_raw_pack<N, AlignBytes>(row, pack);
      });
    }
  }
  LIGER_DEVICE Pack<A> at(int slot, int pack) const {
    if constexpr (Resident) return widened(packs_[slot]);
    return load_pack<N, AlignBytes>(row_, pack);
  }
  LIGER_DEVICE A element(int column) const { return widen(row_[column]); }

 private:
  const T* row_;
  RawPack<T> packs_[Resident ? Row::slots : 1];
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
    const long long row = block * Rows + (Rows == 1 ? 0 : thread_index() / Threads);
    f(row < rows ? row : rows - 1, Rows == 1 ? thread_index() : thread_index() % Threads,
      row < rows);
  }
}

// The same from the last row to the first: a backward finds the last rows of what the kernel before
// it wrote, or its own forward read, in the L2 cache.
template <int Threads, int Rows, class F>
LIGER_DEVICE void each_row_from_the_end(long long block, long long rows, F&& f) {
  each_row<Threads, Rows>(block, rows, [&](long long row, int thread, bool active) {
    f(rows - 1 - row, thread, active);
  });
}

LIGER_DEVICE constexpr int threads_of_block(int threads, int rows) {
  return on_host ? 1 : threads * rows;
}

}  // namespace liger
