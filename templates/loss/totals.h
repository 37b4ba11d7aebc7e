// What the losses of a batch are divided by, found on the device: nobody waits for it.
#pragma once
#include "device/row.h"

namespace liger {

// Denominators, and factors made from them, that live on the device: nobody waits for them.
template <class A>
struct LossTotals {
  A loss;    // what a row's cross entropy is multiplied by
  A z_loss;  // what its lse^2 term is multiplied by
  A share;   // 1 / number of rows that count
};

struct CrossEntropyTotalsSpec {
  Dtype arithmetic;
  bool mean;
  bool has_weight;
  bool has_num_items;
  int threads;
};

// Sums over rows have as many accumulators, whatever the threads are: row r is in accumulator r %
// 1024.
constexpr int row_accumulators = 1024;

// Counts the rows that are not ignored, or sums their class weights. One block.
template <CrossEntropyTotalsSpec S>
struct CrossEntropyTotals {
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  static constexpr int owned = row_accumulators / S.threads;
  using A = Type<S.arithmetic>;

  const long long* target;
  const A* class_weight;
  const float* num_items;
  LossTotals<A>* totals;
  long long rows;
  long long classes;
  long long ignore_index;

  LIGER_DEVICE void operator()(long long) const {
    long long rows_of_thread = 0;
    double weights[owned] = {};  // what is lost here is lost in every row
    LIGER_UNROLL for (int index = 0; index < owned; ++index) {
      LIGER_UNROLL_BY(8)
      for (long long row = index * S.threads + thread_index(); row < rows;
           row += row_accumulators) {
        const long long y = target[row];
        if (y == ignore_index) continue;
        ++rows_of_thread;
        if constexpr (S.has_weight) weights[index] += y >= 0 && y < classes ? class_weight[y] : 0;
      }
    }
    const auto counted = across_threads<S.threads, 1>(rows_of_thread, Add{});
    LossTotals<A> result{A(1), A(1), A(1.0 / static_cast<double>(counted))};
    if constexpr (S.mean) {
      result.loss = result.z_loss = result.share;
      if constexpr (S.has_weight) {
        const double sum = across_accumulators<row_accumulators, S.threads, 1, owned, true>(
            weights, Add{}, 0.0, 0);
        result.loss = A(1.0 / sum);
      }
      if constexpr (S.has_num_items) result.loss = result.z_loss = A(1.0 / double(*num_items));
    }
    if (thread_index() == 0) *totals = result;
  }
};

}  // namespace liger
