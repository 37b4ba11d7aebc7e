// out[column] = sum of partials[0..P)[column], for up to three matrices of partials, in an order
// fixed by P and the number G of groups: group g adds partials g, g + G, ... and the groups meet in
// a binary tree.
#pragma once
#include "device/weight_gradient.h"

namespace liger {

// What a block does of one matrix.
template <int Columns, int Groups, class A>
struct SumOfPartials {
  static constexpr int packs_of_block = 4;
  static constexpr int columns_of_block = packs_of_block * pack_size;
  static constexpr int blocks = (Columns + columns_of_block - 1) / columns_of_block;
  static constexpr int block_threads = on_host ? 1 : packs_of_block * Groups;

  // Shared memory of the block.
  using Sums = A[Groups][columns_of_block];

  // f(column, sum) for the columns of the block, each from one thread.
  template <class F>
  static LIGER_DEVICE void each(Sums& sums, const A* partials, long long partial_rows, int block,
                                F&& f) {
    for (int i = thread_index(); i < Groups * packs_of_block; i += block_threads) {
      const int group = i / packs_of_block;
      const int pack = i % packs_of_block;
      const auto sum = sum_of_group(partials, partial_rows, group, block * packs_of_block + pack);
      LIGER_UNROLL for (int j = 0; j < pack_size; ++j) sums[group][pack * pack_size + j] = sum.v[j];
    }
    barrier();
    for (int c = thread_index(); c < columns_of_block; c += block_threads) {
      const int column = block * columns_of_block + c;
      A level[32];
      LIGER_UNROLL for (int g = 0; g < 32; ++g) {
        A of_level[Groups / 32];
        LIGER_UNROLL for (int i = 0; i < Groups / 32; ++i) of_level[i] = sums[g + i * 32][c];
        tree_reduce<Groups / 32>(of_level, Add{});
        level[g] = of_level[0];
      }
      tree_reduce<32>(level, Add{});
      if (column < Columns) f(column, level[0]);
    }
  }

 private:
  static LIGER_DEVICE Pack<A> sum_of_group(const A* from, long long partial_rows, int group,
                                           int pack) {
    Pack<A> sum = filled(A(0));
    if (pack * pack_size >= Columns) return sum;
    LIGER_UNROLL_BY(4) for (long long p = group; p < partial_rows; p += Groups) {
      sum = sum + load<16>(from + p * padded(Columns) + pack * pack_size);
    }
    return sum;
  }
};

struct ColumnSumSpec {
  Dtype partial;
  Dtype out;
  Dtype second_out;
  Dtype third_out;
  int columns;  // of each matrix; 0: there is none
  int second_columns;
  int third_columns;
  int groups;  // a power of two from 32
};

template <ColumnSumSpec S>
struct ColumnSum {
  using A = Type<S.partial>;
  template <int Columns>
  using Sum = SumOfPartials<Columns, S.groups, A>;
  static constexpr int block_threads = Sum<S.columns>::block_threads;

  const A* partials;
  Type<S.out>* out;
  const A* second_partials;
  Type<S.second_out>* second_out;
  const A* third_partials;
  Type<S.third_out>* third_out;
  long long partial_rows;

  LIGER_DEVICE void operator()(long long block) const {
    LIGER_SHARED A sums[S.groups][Sum<S.columns>::columns_of_block];
    int b = static_cast<int>(block);
    if constexpr (S.columns > 0) {
      if (b < Sum<S.columns>::blocks) return add<S.columns>(sums, partials, out, b);
      b -= Sum<S.columns>::blocks;
    }
    if constexpr (S.second_columns > 0) {
      if (b < Sum<S.second_columns>::blocks)
        return add<S.second_columns>(sums, second_partials, second_out, b);
      b -= Sum<S.second_columns>::blocks;
    }
    if constexpr (S.third_columns > 0) add<S.third_columns>(sums, third_partials, third_out, b);
  }

 private:
  template <int Columns, class Sums, class Out>
  LIGER_DEVICE void add(Sums& sums, const A* from, Out* to, int block) const {
    Sum<Columns>::each(sums, from, partial_rows, block,
                       [&](int column, A sum) { to[column] = narrow<Out>(sum); });
  }
};

}  // namespace liger
