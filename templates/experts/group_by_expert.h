// Pairs of a token and one of its experts, in the order of the experts: a stable counting sort,
// with no atomics, so it is the same in each run.
//
// Pairs are cut into lists. The first kernel counts each list's pairs of each expert; a GPU sorts
// the list for that on the chip. The second adds up the counts in the order of the experts, then of
// the lists, which gives where each list's pairs of an expert begin. The third puts them there.
//
// An index that is the number of experts is nobody's: such pairs come last, and no group has them.
#pragma once
#include "device/fault.h"
#include "device/scan.h"
#include "device/sort.h"

namespace liger {

struct ExpertListsSpec {
  Dtype index;
  int list_pairs;
  int threads;
};

template <ExpertListsSpec S>
struct ExpertLists {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static_assert(on_host || S.threads == S.list_pairs, "a thread has one pair");
  using Key = unsigned int;  // an expert and, in the low bits, the place in the list

  const Type<S.index>* indices;
  Key* keys;    // of each list, sorted; on a GPU
  int* counts;  // [experts + 1, lists]
  InputFault fault;
  long long pairs;
  long long num_experts;
  long long lists;

  LIGER_DEVICE void operator()(long long list) const {
    const long long first = list * S.list_pairs;
    for (long long expert = thread_index(); expert <= num_experts; expert += block_threads)
      counts[expert * lists + list] = 0;
    if constexpr (on_host) {
      for (long long pair = first; pair < first + S.list_pairs && pair < pairs; ++pair)
        ++counts[expert_of(pair) * lists + list];
    } else {
      LIGER_SHARED Key sorted[S.list_pairs];
      const int thread = thread_index();
      const long long pair = first + thread;
      const Key expert = static_cast<Key>(pair < pairs ? expert_of(pair) : num_experts + 1);
      const Key key = sorted_across_threads<S.list_pairs>(expert * S.list_pairs + thread);
      sorted[thread] = key;
      keys[pair] = key;
      barrier();
      const Key of_run = key / S.list_pairs;
      const bool ends = thread + 1 == S.list_pairs || sorted[thread + 1] / S.list_pairs != of_run;
      if (ends && of_run <= num_experts) {
        const int begin = lower_bound(sorted, 0, thread, of_run * S.list_pairs);
        counts[of_run * lists + list] = thread + 1 - begin;
      }
    }
  }

 private:
  LIGER_DEVICE long long expert_of(long long pair) const {
    const long long expert = indices[pair];
    if (expert >= 0 && expert <= num_experts) return expert;
    record_fault(fault, pair, expert, num_experts + 1);
    return num_experts;
  }
};

struct ExpertStartsSpec {
  int threads;
};

// One block, whose threads have neighbouring shares of the counts.
template <ExpertStartsSpec S>
struct ExpertStarts {
  static constexpr int block_threads = on_host ? 1 : S.threads;

  int* counts;  // becomes: where the pairs of an expert and a list begin
  int* ends;    // of each expert's pairs
  long long num_experts;
  long long lists;

  LIGER_DEVICE void operator()(long long) const {
    const long long all = (num_experts + 1) * lists;
    const long long share = (all + block_threads - 1) / block_threads;
    const long long begin = thread_index() * share;
    const long long end = begin + share < all ? begin + share : all;
    int sum = 0;
    for (long long i = begin; i < end; ++i) sum += counts[i];
    int start = sum_of_threads_before<block_threads>(sum);
    for (long long i = begin; i < end; ++i) {
      const int count = counts[i];
      counts[i] = start;
      if (i % lists == 0 && i > 0) ends[i / lists - 1] = start;
      start += count;
    }
  }
};

struct ExpertPlacesSpec {
  Dtype index;
  int list_pairs;
  int threads;
};

template <ExpertPlacesSpec S>
struct ExpertPlaces {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  using Key = unsigned int;

  const Type<S.index>* indices;
  const Key* keys;
  int* starts;  // [experts + 1, lists]
  int* order;   // the pair of each place
  int* tokens;  // the token of each place
  int* places;  // the place of each pair
  long long pairs;
  long long num_experts;
  long long lists;
  long long slots;  // experts of a token

  LIGER_DEVICE void operator()(long long list) const {
    const long long first = list * S.list_pairs;
    if constexpr (on_host) {
      for (long long pair = first; pair < first + S.list_pairs && pair < pairs; ++pair) {
        const long long index = indices[pair];
        const long long expert = index >= 0 && index <= num_experts ? index : num_experts;
        put(pair, starts[expert * lists + list]++);
      }
    } else {
      const int thread = thread_index();
      const Key* const sorted = keys + first;
      const Key key = sorted[thread];
      const long long expert = key / S.list_pairs;
      if (expert > num_experts) return;
      const Key first_of_run = key / S.list_pairs * S.list_pairs;
      const int rank = thread - lower_bound(sorted, 0, thread, first_of_run);
      put(first + key % S.list_pairs, starts[expert * lists + list] + rank);
    }
  }

 private:
  LIGER_DEVICE void put(long long pair, int place) const {
    order[place] = static_cast<int>(pair);
    tokens[place] = static_cast<int>(pair / slots);
    places[pair] = place;
  }
};

}  // namespace liger
