// A row that the threads of a cluster read once and hold, as it is in memory: in shared memory, and
// some packs in registers. Each thread reads and writes packs of its own.
//
// Rows of one length and type, that start as far from alignment, may be held together: a thread has
// the same columns of each.
//
// A row may start anywhere: loads are aligned down, so its first column may stand within a pack. A
// sum's bits depend neither on that nor on the number of threads: elements `accumulator_count`
// packs apart are added in order, then halves of what is left, from the highest bit of the position
// to the lowest, so that each step adds what stands a fixed distance apart.
#pragma once
#include "device/copy.h"
#include "device/sm90/cluster.h"
#include "device/softmax.h"

namespace liger {

// Bytes: what the address of each row is a multiple of; 0: rows start anywhere. Kept: packs that a
// thread has in registers. The launch brings the shared memory of the others.
template <int N, int Threads, int Blocks, int Kept, int Bytes, class T>
class ResidentRow {
 public:
  using A = typename ArithmeticOf<T>::Type;
  using Elements = Pack<A>;

  // `before`: how many rows are held beside this one that were constructed before it.
  LIGER_DEVICE ResidentRow(const T* row, int rank, int before = 0)
      : row_(row), rank_(rank), before_(before) {
    constexpr int run = Threads / pack_size;  // of neighbouring packs
    const int thread = thread_index();
    const int first = (thread / run * Blocks + rank) * run + thread % run;
    const auto address = reinterpret_cast<unsigned long long>(row);
    column_ = first * pack_size - (Bytes == 0 ? static_cast<int>(address % 16 / sizeof(T)) : 0);
    slots_ = column_ < N ? (N - 1 - column_) / stride + 1 : 0;
  }

  LIGER_DEVICE void read() {
    if (before_ == 0) cluster_arrive<Blocks>();
    LIGER_UNROLL_BY(copies_alone ? 1 : 4)
    for (int slot = Kept; slot < slots_; ++slot) copy(slot);
    LIGER_UNROLL for (int slot = 0; slot < Kept; ++slot) {
      kept_[slot] = load_raw<word, false>(row_ + column_of(slot));
    }
  }

  // For who begins with a sum: what `combined` waits for.
  LIGER_DEVICE void wait() const {
    wait_for_copies();
    cluster_wait<Blocks>();
  }

  // Whether this thread, alone of all, has that column.
  LIGER_DEVICE bool owns(int column) const {
    const int from_mine = column - column_;
    return from_mine >= 0 && from_mine % stride < pack_size;
  }
  LIGER_DEVICE bool leads() const { return rank_ == 0 && thread_index() == 0; }

  // Combines f(column, eight elements, eight of each of the others), in any order. Elements that
  // are missing are -inf. First of all uses.
  template <class V, class F, class Combine, class... Others>
  LIGER_DEVICE V combined(F&& f, Combine combine, V value, const Others&... others) const {
    LIGER_UNROLL for (int slot = 0; slot < Kept; ++slot) {
      value = combine(value, f(column_of(slot), in_registers(slot), others.in_registers(slot)...));
    }
    wait_for_copies();
    LIGER_UNROLL_BY(1) for (int slot = Kept; slot < slots_; ++slot) {
      value = combine(value, f(column_of(slot), in_shared(slot), others.in_shared(slot)...));
    }
    return across_cluster<Threads, Blocks>(value, rank_, combine);
  }

  // The largest element.
  LIGER_DEVICE A largest() const {
    const auto itself = [](int, const Pack<A>& mine) { return mine; };
    return combined_elements(itself, Larger{}, minus_infinity<A>());
  }

  // The same of the elements of packs that f gives.
  template <class F, class Combine, class... Others>
  LIGER_DEVICE A combined_elements(F&& f, Combine combine, A empty, const Others&... others) const {
    return combined<A>(
        [&](int column, const Pack<A>& mine, const typename Others::Elements&... rest) {
          return liger::combined(f(column, mine, rest...), combine);
        },
        combine, empty, others...);
  }

  // The slots whose eight elements f holds for, by bits.
  template <class F>
  LIGER_DEVICE unsigned long long marked(F&& f) const {
    static_assert(most_slots <= 64);
    unsigned long long marks = 0;
    each<0, 1>([&](int slot, const Pack<A>& mine) {
      marks |= static_cast<unsigned long long>(f(mine)) << slot;
    });
    return marks;
  }

  // Combines f(eight elements) of the slots marked, in any order, after `combined`. `use`: how
  // often it was called before.
  template <class V, class F, class Combine>
  LIGER_DEVICE V of_marked(unsigned long long marks, int use, F&& f, Combine combine,
                           V value) const {
    if (marks != 0) {
      LIGER_UNROLL for (int slot = 0; slot < Kept; ++slot) {
        if (marks >> slot & 1) value = combine(value, f(in_registers(slot)));
      }
      LIGER_UNROLL_BY(1) for (int slot = Kept; slot < slots_; ++slot) {
        if (marks >> slot & 1) value = combine(value, f(in_shared(slot)));
      }
    }
    return across_cluster<Threads, Blocks, true>(value, rank_, combine, use);
  }

  // Adds the eight results of f(column, eight elements, eight of each of the others), which are
  // zero for what is missing. `again`: this is not the first sum.
  template <class F, class... Others>
  LIGER_DEVICE A sum(bool again, F&& f, const Others&... others) const {
    return across_positions<Threads, Blocks>(of_accumulators<Pack<A>, 0, 1>(f, others...), rank_,
                                             again);
  }
  // Adds f(element), and store()s with(eight elements, f), which is made anew.
  struct Terms {};
  template <class F>
  LIGER_DEVICE A sum_of_terms(T*, Terms&, F&& f) const {
    return sum(false, [&](int, const Pack<A>& mine) { return map(f, mine); });
  }
  template <class F, class With>
  LIGER_DEVICE void store_terms(T* to, const Terms&, F&& f, With&& with) const {
    store(to, [&](int, const Pack<A>& mine) { return with(mine, f); });
  }

  // Two sums in one reading: f gives eight results of each.
  template <class F, class... Others>
  LIGER_DEVICE Two<A> two_sums(bool again, F&& f, const Others&... others) const {
    const auto both = of_accumulators<Two<Pack<A>>, 0, 1>(f, others...);
    const A first = across_positions<Threads, Blocks>(both.first, rank_, again);
    return {first, across_positions<Threads, Blocks>(both.second, rank_, true)};
  }

  // to[column] = f(column, eight elements, eight of each of the others).
  template <class F, class... Others>
  LIGER_DEVICE void store(T* to, F&& f, const Others&... others) const {
    each<0, 1>(
        [&](int slot, const Pack<A>& mine, const typename Others::Elements&... rest) {
          put(to, column_of(slot), f(column_of(slot), mine, rest...));
        },
        others...);
  }
  LIGER_DEVICE void fill(T* to, A value) const {
    LIGER_UNROLL_BY(1) for (int slot = 0; slot < slots_; ++slot) {
      put(to, column_of(slot), filled(value));
    }
  }

 private:
  static constexpr int word = Bytes == 0 ? 16 : Bytes;
  static constexpr int most_shift = Bytes == 0 ? 16 / static_cast<int>(sizeof(T)) - 1 : 0;
  static constexpr int stride = Threads * Blocks * pack_size;
  static_assert(Kept == 0 || (Bytes > 0 && N % pack_size == 0 && Kept * stride <= N),
                "kept packs are whole");

  static constexpr int accumulators_wanted = power_of_two_from((N + 127) / 128);
  static constexpr int accumulator_count =
      accumulators_wanted < 128 ? 128 : (accumulators_wanted > 2048 ? 2048 : accumulators_wanted);
  static constexpr int owned =
      accumulator_count / (Threads * Blocks);  // accumulators of one thread
  static_assert(owned > 0, "threads of a row");

  LIGER_DEVICE int column_of(int slot) const { return column_ + slot * stride; }
  static LIGER_DEVICE bool inside(int column) { return column >= 0 && column < N; }
  static LIGER_DEVICE bool whole(int column) {
    return (most_shift == 0 && N % pack_size == 0) || (column >= 0 && column <= N - pack_size);
  }

  // A thread's packs are `Threads` words apart, so that neighbours read neighbouring words.
  static constexpr int words = pack_size * sizeof(T) / 16;
  static constexpr int most_slots = (N + most_shift + stride - 1) / stride;
  LIGER_DEVICE unsigned char* place(int slot, int i) const {
    const int packs = before_ * (most_slots - Kept) + slot - Kept;
    return shared_of_launch() + ((packs * words + i) * Threads + thread_index()) * 16;
  }
  // Two functions, as registers are found by constant indices.
  LIGER_DEVICE Pack<A> in_registers(int slot) const { return widened(anew(kept_[slot])); }
  LIGER_DEVICE Pack<A> in_shared(int slot) const { return widened(shared(slot)); }
  LIGER_DEVICE RawPack<T> shared(int slot) const {
    RawPack<T> raw;
    LIGER_UNROLL for (int i = 0; i < words; ++i) {
#if defined(LIGER_HOST)
      copy_bytes(raw.words + i * 4, place(slot, i), 16);
#else
      const uint4 four = *reinterpret_cast<const uint4*>(place(slot, i));
      copy_bytes(raw.words + i * 4, &four, 16);
#endif
    }
    return raw;
  }

  LIGER_DEVICE void copy(int slot) const {
    const int column = column_of(slot);
    if (whole(column)) {
      LIGER_UNROLL for (int i = 0; i < words; ++i) {
        copy_to_shared<word>(place(slot, i), row_ + column + i * (16 / sizeof(T)));
      }
    } else {
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        constexpr int of_word = 16 / sizeof(T);
        T* const to = reinterpret_cast<T*>(place(slot, i / of_word)) + i % of_word;
        *to = inside(column + i) ? row_[column + i] : narrow<T>(minus_infinity<float>());
      }
    }
  }

  static LIGER_DEVICE void put(T* to, int column, const Pack<A>& values) {
    if (whole(column)) {
      liger::store<word>(to + column, values);
    } else {
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        if (inside(column + i)) to[column + i] = narrow<T>(values.v[i]);
      }
    }
  }

  // f(slot, pack, pack of each of the others) for the slots First, First + Step, ...
  template <int First, int Step, class F, class... Others>
  LIGER_DEVICE void each(F&& f, const Others&... others) const {
    LIGER_UNROLL for (int slot = First; slot < Kept; slot += Step) {
      f(slot, in_registers(slot), others.in_registers(slot)...);
    }
    constexpr int first = First + (Kept > First ? (Kept - First + Step - 1) / Step * Step : 0);
    LIGER_UNROLL_BY(1) for (int slot = first; slot < slots_; slot += Step) {
      f(slot, in_shared(slot), others.in_shared(slot)...);
    }
  }

  // The accumulators First, First + Step, ... of this thread, halves first.
  template <class V, int First, int Step, class F, class... Others>
  LIGER_DEVICE V of_accumulators(F&& f, const Others&... others) const {
    if constexpr (Step < owned) {
      return of_accumulators<V, First, 2 * Step>(f, others...) +
             of_accumulators<V, First + Step, 2 * Step>(f, others...);
    } else {
      V accumulator{};
      each<First, Step>(
          [&](int slot, const Pack<A>& mine, const typename Others::Elements&... rest) {
            accumulator = accumulator + f(column_of(slot), mine, rest...);
          },
          others...);
      return accumulator;
    }
  }

  const T* row_;
  int rank_;
  int before_;
  int column_;  // of this thread's first pack
  int slots_;   // packs of this thread
  RawPack<T> kept_[Kept > 0 ? Kept : 1];
};

}  // namespace liger
