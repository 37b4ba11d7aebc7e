// out[column] = sum of partials[0..P)[column], for one matrix of partials or two.
#pragma once
#include "device/column_sum.h"
#include "device/weight_gradient.h"

namespace liger {

struct ColumnSumSpec {
  Dtype partial;
  Dtype out;
  Dtype second_out;
  bool has_second;
  int columns;
  int groups;  // a power of two from 32
};

template <ColumnSumSpec S>
struct ColumnSum {
  using Sums = ColumnSums<S.columns, S.groups>;
  static constexpr int block_threads = Sums::block_threads;
  using A = Type<S.partial>;

  const A* partials;
  Type<S.out>* out;
  const A* second_partials;
  Type<S.second_out>* second_out;
  long long partial_rows;

  LIGER_DEVICE void operator()(long long block) const {
    if constexpr (S.has_second) {
      if (block >= Sums::blocks) {
        add(second_partials, second_out, static_cast<int>(block) - Sums::blocks);
        return;
      }
    }
    add(partials, out, static_cast<int>(block));
  }

 private:
  template <class Out>
  LIGER_DEVICE void add(const A* from, Out* to, int block) const {
    Sums::template add<A>(
        block, partial_rows,
        [&](long long row, int pack) {
          return load<16>(from + row * padded(S.columns) + pack * pack_size);
        },
        [&](int column, A sum) { to[column] = narrow<Out>(sum); });
  }
};

}  // namespace liger
