// Reductions whose tree is fixed by the row alone. Whatever number of threads the tuner picks, the
// same elements meet in the same order, so the bits are the same.
#pragma once
#include "device/pack.h"

namespace liger {

LIGER_DEVICE constexpr int power_of_two_from(int n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

struct Add {
  template <class V>
  LIGER_DEVICE V operator()(const V& a, const V& b) const {
    return a + b;
  }
};

// Two sums that travel together.
template <class A>
struct Two {
  A first{};
  A second{};
};
template <class A>
LIGER_DEVICE Two<A> both(const A& first, const A& second) {
  return {first, second};
}
template <class A>
LIGER_DEVICE Two<A> operator+(const Two<A>& a, const Two<A>& b) {
  return {a.first + b.first, a.second + b.second};
}
template <class A>
LIGER_DEVICE Two<A> shuffle_xor(const Two<A>& value, int mask) {
  return {shuffle_xor(value.first, mask), shuffle_xor(value.second, mask)};
}

// As many as are asked for.
template <int Count, class A>
struct Several {
  A v[Count];
};
template <int Count, class A>
LIGER_DEVICE Several<Count, A> operator+(const Several<Count, A>& a, const Several<Count, A>& b) {
  Several<Count, A> sum;
  LIGER_UNROLL for (int i = 0; i < Count; ++i) sum.v[i] = a.v[i] + b.v[i];
  return sum;
}
template <int Count, class A>
LIGER_DEVICE Several<Count, A> shuffle_xor(const Several<Count, A>& value, int mask) {
  Several<Count, A> other;
  LIGER_UNROLL for (int i = 0; i < Count; ++i) other.v[i] = shuffle_xor(value.v[i], mask);
  return other;
}

// What the eight elements of a pack come to, or those of each of several.
template <class A, class Combine>
LIGER_DEVICE A combined(const Pack<A>& a, Combine combine) {
  const A first = combine(combine(a.v[0], a.v[4]), combine(a.v[2], a.v[6]));
  const A second = combine(combine(a.v[1], a.v[5]), combine(a.v[3], a.v[7]));
  return combine(first, second);
}
template <class A>
LIGER_DEVICE Two<A> total(const Two<Pack<A>>& a) {
  return {total(a.first), total(a.second)};
}
// A pack's elements of several that a sum is of: on a GPU what they come to, made before the
// others, so that fewer are live.
template <class A>
LIGER_DEVICE auto part_of_sum(const Pack<A>& elements) {
  if constexpr (on_host)
    return elements;
  else
    return total(elements);
}
LIGER_DEVICE Two<float> total(const Two<float>& totals) { return totals; }
LIGER_DEVICE Two<double> total(const Two<double>& totals) { return totals; }

#if defined(LIGER_HOST)
template <class A>
LIGER_DEVICE auto in_lanes(const Two<Pack<A>>& packs) {
  return Two<typename LanesOf<A>::Type>{in_lanes(packs.first), in_lanes(packs.second)};
}
template <class Lanes>
LIGER_DEVICE auto as_packs(const Two<Lanes>& lanes) {
  return Two<decltype(as_packs(lanes.first))>{as_packs(lanes.first), as_packs(lanes.second)};
}

// Sums of sums, in double. Not in vectors of 64 bytes, for which processors lower their clocks.
typedef float FourFloats __attribute__((vector_size(16)));
typedef double FourDoubles __attribute__((vector_size(32)));
LIGER_DEVICE Two<FourDoubles> in_double(const LanesOf<float>::Type& lanes) {
  const auto halves = bits_as<Two<FourFloats>>(lanes);
  return {__builtin_convertvector(halves.first, FourDoubles),
          __builtin_convertvector(halves.second, FourDoubles)};
}
LIGER_DEVICE auto in_double(const LanesOf<double>::Type& lanes) { return lanes; }
template <class Lanes>
LIGER_DEVICE auto in_double(const Two<Lanes>& lanes) {
  return Two<decltype(in_double(lanes.first))>{in_double(lanes.first), in_double(lanes.second)};
}

LIGER_DEVICE double total_of_lanes(const LanesOf<double>::Type& lanes) {
  return total(as_packs(lanes));
}
LIGER_DEVICE double total_of_lanes(const Two<FourDoubles>& halves) {
  const FourDoubles sum = halves.first + halves.second;
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}
template <class Lanes>
LIGER_DEVICE Two<double> total_of_lanes(const Two<Lanes>& lanes) {
  return {total_of_lanes(lanes.first), total_of_lanes(lanes.second)};
}
#endif

// A sum made in double, in the type it is wanted in.
template <class A>
LIGER_DEVICE A rounded_sum(double sum) {
  return static_cast<A>(sum);
}
template <class V, class A = decltype(V::first)>
LIGER_DEVICE V rounded_sum(const Two<double>& sum) {
  return {static_cast<A>(sum.first), static_cast<A>(sum.second)};
}

// values[0] becomes the combination of all, halves meeting from the highest bit of the index to the
// lowest.
template <int Count, class V, class Combine>
LIGER_DEVICE void tree_reduce(V* values, Combine combine) {
  if constexpr (Count > 1) {
    LIGER_UNROLL for (int i = 0; i < Count / 2; ++i) {
      values[i] = combine(values[i], values[i + Count / 2]);
    }
    tree_reduce<Count / 2>(values, combine);
  }
}

// A place in shared memory, which cannot have constructors.
template <class V>
struct alignas(V) Place {
  unsigned char bytes[sizeof(V)];
  LIGER_DEVICE void put(const V& value) { copy_bytes(bytes, &value, sizeof(V)); }
  LIGER_DEVICE V get() const {
    V value;
    copy_bytes(&value, bytes, sizeof(V));
    return value;
  }
};

// Lanes that meet by shuffles: a warp, or half a wavefront of 64.
constexpr int team_lanes = 32;

// Over the lanes whose bit is `Mask` or lower. Where a lane has several values it hands over half
// of them at each step, so all are combined for little more than the price of one; the value's
// index then stands in the lane's high bits.
template <int Mask, int Count, class V, class Combine>
LIGER_DEVICE void meet_in_team(V* values, Combine combine) {
  if constexpr (Mask > 0 && Count > 1) {
    const bool upper = (thread_index() & Mask) != 0;
    LIGER_UNROLL for (int i = 0; i < Count / 2; ++i) {
      const V kept = upper ? values[i + Count / 2] : values[i];
      const V given = upper ? values[i] : values[i + Count / 2];
      values[i] = combine(kept, shuffle_xor(given, Mask));
    }
    meet_in_team<Mask / 2, Count / 2>(values, combine);
  } else if constexpr (Mask > 0) {
    values[0] = combine(values[0], shuffle_xor(values[0], Mask));
    meet_in_team<Mask / 2, 1>(values, combine);
  }
}

// One value of each of `Count` neighbouring lanes; all get the result.
template <int Count, class V, class Combine>
LIGER_DEVICE V meet_by_shuffles(V value, Combine combine) {
  LIGER_UNROLL for (int mask = Count / 2; mask > 0; mask /= 2) {
    value = combine(value, shuffle_xor(value, mask));
  }
  return value;
}

// Combines a row's accumulators: thread t of `Threads` has those of index t, t + Threads, ...,
// `empty` where there is none. The tree is that of the index alone: the five bits of a
// team's lanes from the highest to the lowest, then the others from the highest to the lowest.
// Every thread gets the result. `Rows` groups of threads share the block, and all threads of the
// block must come here. Who comes here again either waits until the last values were read, or takes
// buffers 0 and 1 in turn.
template <int Count, int Threads, int Rows, int Owned, bool Waits, class V, class Combine>
LIGER_DEVICE V across_accumulators(V (&accumulators)[Owned], Combine combine, V empty, int buffer) {
  static_assert(Owned == power_of_two_from(Owned));
  constexpr int width = Threads < team_lanes ? Threads : team_lanes;
  constexpr int of_team = Owned < team_lanes / width ? Owned : team_lanes / width;
  constexpr int teams_owned = Owned / of_team;
  LIGER_UNROLL for (int team = 0; team < teams_owned; ++team) {
    tree_reduce<of_team>(accumulators + team * of_team, combine);
    accumulators[team] = accumulators[team * of_team];
  }
  meet_in_team<width / 2, teams_owned>(accumulators, combine);
  constexpr int spread = teams_owned < width ? teams_owned : width;  // teams over a team's lanes
  if constexpr (Threads <= team_lanes) {
    LIGER_UNROLL for (int i = 0; i < teams_owned / spread; ++i) {
      LIGER_UNROLL for (int mask = width / 2; mask >= width / spread; mask /= 2) {
        accumulators[i] = combine(accumulators[i], shuffle_xor(accumulators[i], mask));
      }
    }
    tree_reduce<teams_owned / spread>(accumulators, combine);
    return accumulators[0];
  } else {
    static_assert(teams_owned <= team_lanes, "accumulators of one thread");
    constexpr int teams_beside = Threads / team_lanes;
    constexpr int teams = power_of_two_from((Count > Threads ? Count : Threads) / team_lanes);
    LIGER_SHARED Place<V> values[2][Rows][teams];
    auto& places = values[buffer][Rows == 1 ? 0 : thread_index() / Threads];
    const int lane = thread_index() % team_lanes;
    const int team = lane / (team_lanes / spread) * teams_beside +
                     (Rows == 1 ? thread_index() : thread_index() % Threads) / team_lanes;
    if constexpr (Waits) barrier();
    if (lane % (team_lanes / spread) == 0 && team < teams) places[team].put(accumulators[0]);
    barrier();
    const int place = lane % teams;
    const V value = place < spread * teams_beside ? places[place].get() : empty;
    return meet_by_shuffles<teams>(value, combine);
  }
}

// The same for one value of each thread.
template <int Threads, int Rows, class V, class Combine>
LIGER_DEVICE V across_threads(V value, Combine combine) {
  V accumulators[1] = {value};
  return across_accumulators<Threads, Threads, Rows, 1, true>(accumulators, combine, value, 0);
}

}  // namespace liger
