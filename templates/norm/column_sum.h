// out[column] = sum of partials[0..P)[column], for up to three matrices of partials.
#pragma once
#include "device/column_sum.h"
#include "device/weight_gradient.h"

namespace liger {

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
  using Sums = ColumnSums<Columns, S.groups>;
  using Memory = typename Sums<1>::template Memory<A>;
  static constexpr int block_threads = Sums<1>::block_threads;

  const A* partials;
  Type<S.out>* out;
  const A* second_partials;
  Type<S.second_out>* second_out;
  const A* third_partials;
  Type<S.third_out>* third_out;
  long long partial_rows;

  LIGER_DEVICE void operator()(long long block) const {
    LIGER_SHARED Memory memory;
    int b = static_cast<int>(block);
    if constexpr (S.columns > 0) {
      if (b < Sums<S.columns>::blocks) return add<S.columns>(memory, partials, out, b);
      b -= Sums<S.columns>::blocks;
    }
    if constexpr (S.second_columns > 0) {
      if (b < Sums<S.second_columns>::blocks)
        return add<S.second_columns>(memory, second_partials, second_out, b);
      b -= Sums<S.second_columns>::blocks;
    }
    if constexpr (S.third_columns > 0) add<S.third_columns>(memory, third_partials, third_out, b);
  }

 private:
  template <int Columns, class Out>
  LIGER_DEVICE void add(Memory& memory, const A* from, Out* to, int block) const {
    Sums<Columns>::template add<A>(
        memory, block, partial_rows,
        [&](long long row, int pack) {
          return load<16>(from + row * padded(Columns) + pack * pack_size);
        },
        [&](int column, A sum) { to[column] = narrow<Out>(sum); });
  }
};

}  // namespace liger
