// Several sums over one row at once, for the price of two barriers. Their bits depend on the row
// alone, as those of RowOf's sums do.
#pragma once
#include "device/row.h"

namespace liger {

// What adds products up: on the host eight sums side by side, which are vector code.
template <class A, bool Host = on_host>
struct ProductSum {
  A value = A(0);
  LIGER_DEVICE void add(const Pack<A>& a, const Pack<A>& b) {
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) value = fused(a.v[i], b.v[i], value);
  }
  LIGER_DEVICE A sum() const { return value; }
};
template <class A>
struct ProductSum<A, true> {
  Pack<A> value = {};
  LIGER_DEVICE void add(const Pack<A>& a, const Pack<A>& b) { value = fused(a, b, value); }
  LIGER_DEVICE A sum() const { return total(value); }
};

// `Row` is the RowOf of `Threads` and `Rows`.
template <class Row, int Threads, int Rows, int Count, class A>
class RowSums {
 public:
  using Products = ProductSum<A>;

  // f(slot, pack, products) adds to products[i] what sum i lacks. Once.
  template <class F>
  LIGER_DEVICE void add_products(int thread, F&& f) {
    if constexpr (on_host) {
      Products products[Count];  // known to nobody else, so they stay in registers
      Row::each(thread, [&](int slot, int pack) { f(slot, pack, products); });
      for (int i = 0; i < Count; ++i) accumulators_[0][i] = products[i];
    } else {
      Row::each(thread,
                [&](int slot, int pack) { f(slot, pack, accumulators_[slot % Row::owned]); });
    }
  }

  // All threads of the block come here, and all threads of a row get its sums.
  LIGER_DEVICE Several<Count, A> across_row(int thread) {
    if constexpr (on_host) {
      Several<Count, A> sums;
      for (int i = 0; i < Count; ++i) sums.v[i] = accumulators_[0][i].sum();
      return sums;
    } else if constexpr (Threads < team_lanes) {
      Several<Count, A> sums[owned];
      LIGER_UNROLL for (int j = 0; j < owned; ++j) {
        LIGER_UNROLL for (int i = 0; i < Count; ++i) sums[j].v[i] = accumulators_[j][i].sum();
      }
      return across_accumulators<Row::accumulator_count, Threads, Rows, owned, true>(
          sums, Add{}, Several<Count, A>{}, 0);
    } else {
      return across_teams(thread);
    }
  }

 private:
  static constexpr int owned = on_host ? 1 : power_of_two_from(Row::owned);

  // Lanes hand over half of the sums at each step, so `Count` sums cost little more than one.
  LIGER_DEVICE Several<Count, A> across_teams(int thread) {
    constexpr int padded = power_of_two_from(Count);
    constexpr int values = padded * owned;
    constexpr int of_lane = values > team_lanes ? values / team_lanes : 1;
    constexpr int lanes_of_value = values < team_lanes ? team_lanes / values : 1;
    constexpr int beside = Threads / team_lanes;
    constexpr int longest = Row::accumulator_count > Threads ? Row::accumulator_count : Threads;
    constexpr int teams = power_of_two_from(longest / team_lanes);
    A by_sum[values];
    LIGER_UNROLL for (int i = 0; i < values; ++i) {
      by_sum[i] = A(0);
      if (i / owned < Count) by_sum[i] = accumulators_[i % owned][i / owned].sum();
    }
    meet_in_team<team_lanes / 2, values>(by_sum, Add{});

    LIGER_SHARED A of_teams[Rows][Count][teams];
    LIGER_SHARED A of_row[Rows][Count];
    const int row = Rows == 1 ? 0 : thread_index() / Threads;
    const int lane = thread % team_lanes;
    if (lane % lanes_of_value == 0) {
      LIGER_UNROLL for (int i = 0; i < of_lane; ++i) {
        const int value = lane / lanes_of_value * of_lane + i;
        const int team = value % owned * beside + thread / team_lanes;
        if (value / owned < Count && team < teams) of_teams[row][value / owned][team] = by_sum[i];
      }
    }
    barrier();
    LIGER_UNROLL_BY(1) for (int sum = thread; sum < Count; sum += Threads) {
      A each[teams];
      LIGER_UNROLL for (int team = 0; team < teams; ++team) {
        each[team] = team < owned * beside ? of_teams[row][sum][team] : A(0);
      }
      tree_reduce<teams>(each, Add{});
      of_row[row][sum] = each[0];
    }
    barrier();
    Several<Count, A> result;
    LIGER_UNROLL for (int i = 0; i < Count; ++i) result.v[i] = of_row[row][i];
    return result;
  }

  Products accumulators_[owned][Count];
};

}  // namespace liger
