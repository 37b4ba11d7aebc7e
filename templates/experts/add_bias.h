// x[p] += bias[expert of place p], in place.
#pragma once
#include "device/row.h"

namespace liger {

struct AddExpertBiasSpec {
  Dtype x;
  Dtype index;
  int width;
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

template <AddExpertBiasSpec S>
struct AddExpertBias {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using T = Type<S.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;

  T* x;
  const T* bias;
  const Type<S.index>* indices;
  const int* order;
  long long places;
  long long num_experts;
  long long x_stride;
  long long bias_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, places, [&](long long place, int thread, bool active) {
      const long long expert = indices[order[place]];
      if (!active || expert < 0 || expert >= num_experts) return;
      T* const row = x + place * x_stride;
      Row::each(thread, [&](int, int pack) {
        const auto sum = load_pack<S.width, S.align_bytes, false>(row, pack) +
                         load_pack<S.width, S.align_bytes>(bias + expert * bias_stride, pack);
        store_pack<S.width, S.align_bytes>(row, pack, sum);
      });
    });
  }
};

}  // namespace liger
