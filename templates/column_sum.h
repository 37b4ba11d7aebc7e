// out[column] = sum of partials[0..P)[column], in an order fixed by P alone: group g of 32 adds
// partials g, g + 32, ... and the groups meet in a binary tree.
#pragma once
#include "device/weight_gradient.h"

namespace liger {

struct ColumnSumSpec {
  Dtype partial;
  Dtype out;
  int columns;
};

template <ColumnSumSpec S>
struct ColumnSum {
  static constexpr int columns_of_block = 32;
  static constexpr int groups = 32;
  static constexpr int block_threads = on_host ? 1 : columns_of_block * groups;
  using A = Type<S.partial>;

  const A* partials;
  Type<S.out>* out;
  long long partial_rows;

  LIGER_DEVICE void operator()(long long block) const {
    LIGER_SHARED A sums[groups][columns_of_block];
    const int first = static_cast<int>(block) * columns_of_block;
    if constexpr (on_host) {
      for (int group = 0; group < groups; ++group) {
        for (int c = 0; c < columns_of_block; ++c) sums[group][c] = sum_of_group(group, first + c);
      }
      for (int c = 0; c < columns_of_block; ++c) finish(sums, c, first + c);
    } else {
      const int c = thread_index() % columns_of_block;
      const int group = thread_index() / columns_of_block;
      sums[group][c] = sum_of_group(group, first + c);
      barrier();
      if (group == 0) finish(sums, c, first + c);
    }
  }

 private:
  LIGER_DEVICE A sum_of_group(int group, int column) const {
    A sum = 0;
    if (column < S.columns) {
      for (long long p = group; p < partial_rows; p += groups)
        sum += partials[p * padded(S.columns) + column];
    }
    return sum;
  }
  LIGER_DEVICE void finish(const A (&sums)[groups][columns_of_block], int c, int column) const {
    A level[groups];
    LIGER_UNROLL for (int g = 0; g < groups; ++g) level[g] = sums[g][c];
    fold<groups>(level, Add{});
    if (column < S.columns) out[column] = narrow<Type<S.out>>(level[0]);
  }
};

}  // namespace liger
