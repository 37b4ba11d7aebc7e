// Sums of columns over rows in an order fixed by the number of rows and `Groups`, a power of two
// from 32: group g adds rows g, g + Groups, ... and the groups meet in a binary tree.
#pragma once
#include "device/pack.h"
#include "device/reduce.h"

namespace liger {

template <int Columns, int Groups>
struct ColumnSums {
  static constexpr int packs_of_block = 4;
  static constexpr int columns_of_block = packs_of_block * pack_size;
  static constexpr int blocks = (Columns + columns_of_block - 1) / columns_of_block;
  static constexpr int block_threads = on_host ? 1 : packs_of_block * Groups;

  // What a block needs of shared memory.
  template <class A>
  using Memory = A[Groups][columns_of_block];

  // put(column, sum of at(row, pack) over the rows) for the columns of one of the blocks. All its
  // threads take part, once in a launch.
  template <class A, class At, class Put>
  static LIGER_DEVICE void add(Memory<A>& sums, int block, long long rows, At&& at, Put&& put) {
    if constexpr (on_host) return add_packs<A>(block, rows, at, put);
    for (int i = thread_index(); i < Groups * packs_of_block; i += block_threads) {
      const int group = i / packs_of_block;
      const int pack = i % packs_of_block;
      const auto sum = sum_of_group<A>(rows, group, block * packs_of_block + pack, at);
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
      if (column < Columns) put(column, level[0]);
    }
  }

 private:
  // The same tree of eight columns at once, without groups that have no row and add zeros.
  template <class A, class At, class Put>
  static LIGER_DEVICE void add_packs(int block, long long rows, At&& at, Put&& put) {
    int groups = Groups;
    while (groups > 1 && groups / 2 >= rows) groups /= 2;
    for (int pack = block * packs_of_block; pack < (block + 1) * packs_of_block; ++pack) {
      Pack<A> sums[Groups];
      for (int i = 0; i < groups; ++i) sums[i] = sum_of_group<A>(rows, i, pack, at);
      for (int half = groups / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) sums[i] = sums[i] + sums[i + half];
      }
      LIGER_EACH_ELEMENT for (int i = 0; i < pack_size; ++i) {
        const int column = pack * pack_size + i;
        if (column < Columns) put(column, sums[0].v[i]);
      }
    }
  }

  template <class A, class At>
  static LIGER_DEVICE Pack<A> sum_of_group(long long rows, int group, int pack, At&& at) {
    Pack<A> sum = filled(A(0));
    if (pack * pack_size >= Columns) return sum;
    LIGER_UNROLL_BY(4) for (long long row = group; row < rows; row += Groups) {
      sum = sum + at(row, pack);
    }
    return sum;
  }
};

}  // namespace liger
