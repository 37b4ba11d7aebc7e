// y[t] = sum over the experts j of token t of weights[t, j] * (x[places[t, j]] + bias[expert]):
// each token gathers its rows, in the order of j, so nothing is added by two threads.
#pragma once
#include "device/row.h"

namespace liger {

struct CombineExpertsSpec {
  Dtype x;
  Dtype weight;
  Dtype index;
  Dtype bias;
  bool weighted;
  bool biased;
  int slots;  // experts of a token
  int width;
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

template <CombineExpertsSpec S>
struct CombineExperts {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using T = Type<S.x>;
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;

  const T* x;
  const int* places;
  const Type<S.index>* indices;
  const Type<S.weight>* weights;
  const Type<S.bias>* bias;
  T* y;
  long long tokens;
  long long num_experts;
  long long x_stride;
  long long bias_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, tokens, [&](long long token, int thread, bool active) {
      if (!active) return;
      const T* from[S.slots];  // null: the pair is nobody's
      A weight[S.slots];
      const Type<S.bias>* shift[S.slots];
      LIGER_UNROLL for (int j = 0; j < S.slots; ++j) {
        const long long pair = token * S.slots + j;
        const long long expert = indices[pair];
        const bool present = expert >= 0 && expert < num_experts;
        from[j] = present ? x + places[pair] * x_stride : nullptr;
        weight[j] = S.weighted ? A(widen(weights[pair])) : A(1);
        shift[j] = S.biased && present ? bias + expert * bias_stride : bias;
      }
      Row::each(thread, [&](int, int pack) {
        Pack<A> sum = filled(A(0));
        LIGER_UNROLL for (int j = 0; j < S.slots; ++j) {
          if (from[j] == nullptr) continue;
          auto row = load_pack<S.width, S.align_bytes>(from[j], pack);
          if constexpr (S.biased) row = row + load_pack<S.width, S.align_bytes>(shift[j], pack);
          sum = S.weighted ? fused(row, filled(weight[j]), sum) : row + sum;
        }
        store_pack<S.width, S.align_bytes>(y + token * S.width, pack, sum);
      });
    });
  }
};

}  // namespace liger
