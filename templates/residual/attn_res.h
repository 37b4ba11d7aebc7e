// Attention over depth in place of a residual sum: of each token's states v[0..N)
//   score[n] = sum of query * norm * v[n] * rstd[n],  rstd[n] = rsqrt(mean(v[n]^2) + eps)
//   y = sum of softmax(score)[n] * v[n].
#pragma once
#include "device/copy.h"
#include "device/row_sums.h"
#include "device/softmax.h"
#include "norm/column_sum.h"

namespace liger {

struct AttnResForwardSpec {
  Dtype v;
  Dtype query;
  Dtype norm;
  int depth;   // states of a token
  int hidden;  // exact length of a state
  int align_bytes;
  int chunk;    // states that a row's threads hold at once; 0: none, each is read twice
  int threads;  // tuned; of a token
  int rows;     // tuned; tokens of a block
};

template <AttnResForwardSpec S>
struct AttnResForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.v>;
  using Row = RowOf<S.hidden, S.threads, S.rows, (S.chunk > 0)>;
  template <int Count>
  using Sums = RowSums<Row, S.threads, S.rows, Count, A>;

  const Type<S.v>* v;
  const Type<S.query>* query;
  const Type<S.norm>* norm;
  Type<S.v>* y;
  A* score;  // [depth][tokens]; null: not kept
  A* rstd;
  long long tokens;
  long long v_depth_stride;
  long long v_stride;
  double eps;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, tokens, [&](long long token, int thread, bool active) {
      if constexpr (S.chunk > 0) {
        in_chunks(token, thread, active);
      } else {
        in_two_readings(token, thread, active);
      }
    });
  }

 private:
  LIGER_DEVICE const Type<S.v>* state(int n, long long token) const {
    return v + n * v_depth_stride + token * v_stride;
  }
  // What a normalised state is multiplied with.
  LIGER_DEVICE Pack<A> key_weight(int pack) const {
    return load_pack<S.hidden, S.align_bytes>(query, pack) *
           load_pack<S.hidden, S.align_bytes>(norm, pack);
  }
  // The score out of the sum of squares and that of products with the key's weight.
  LIGER_DEVICE A scored(A squares, A product, int n, long long token, bool keeps) const {
    const A r = reciprocal_root(squares * A(1.0 / S.hidden) + A(eps));
    const A result = product * r;
    if (keeps && score) {
      score[n * tokens + token] = result;
      rstd[n * tokens + token] = r;
    }
    return result;
  }

  // The softmax goes on from chunk to chunk, so each state is read once.
  LIGER_DEVICE void in_chunks(long long token, int thread, bool active) const {
    constexpr int chunk = S.chunk > 0 ? S.chunk : 1;
    A largest = minus_infinity<A>();
    A exponentials = 0;
    Pack<A> mixed[Row::slots];
    LIGER_UNROLL for (auto& pack : mixed) pack = filled(A(0));
    LIGER_UNROLL for (int first = 0; first < S.depth; first += chunk) {
      RawPack<Type<S.v>> states[chunk][Row::slots];
      LIGER_UNROLL for (int i = 0; i < chunk; ++i) {
        if (first + i >= S.depth) continue;
        Row::each(thread, [&](int slot, int pack) {
          states[i][slot] = load_raw_pack<S.hidden, S.align_bytes>(state(first + i, token), pack);
        });
      }
      Sums<2 * chunk> sums;
      using Products = typename Sums<2 * chunk>::Products;
      sums.add_products(thread, [&](int slot, int pack, Products* sum) {
        const auto key = key_weight(pack);
        LIGER_UNROLL for (int i = 0; i < chunk; ++i) {
          if (first + i >= S.depth) continue;
          const auto x = widened(states[i][slot]);
          sum[2 * i].add(x, x);
          sum[2 * i + 1].add(x, key);
        }
      });
      const auto of_states = sums.across_row(thread);
      A weights[chunk];
      A new_largest = largest;
      LIGER_UNROLL for (int i = 0; i < chunk; ++i) {
        if (first + i >= S.depth) continue;
        weights[i] = scored(of_states.v[2 * i], of_states.v[2 * i + 1], first + i, token,
                            active && thread == 0);
        new_largest = larger(new_largest, weights[i]);
      }
      const A scale = exponential<true>(largest - new_largest);
      exponentials = exponentials * scale;
      LIGER_UNROLL for (int i = 0; i < chunk; ++i) {
        if (first + i >= S.depth) continue;
        weights[i] = exponential<true>(weights[i] - new_largest);
        exponentials = exponentials + weights[i];
      }
      largest = new_largest;
      Row::each(thread, [&](int slot, int) {
        if (first > 0) mixed[slot] = mixed[slot] * scale;
        LIGER_UNROLL for (int i = 0; i < chunk; ++i) {
          if (first + i >= S.depth) continue;
          mixed[slot] = fused(widened(states[i][slot]), filled(weights[i]), mixed[slot]);
        }
      });
    }
    if (!active) return;
    const A share = quotient<true>(A(1), exponentials);
    Row::each(thread, [&](int slot, int pack) {
      store_pack<S.hidden, S.align_bytes>(y + token * S.hidden, pack, mixed[slot] * share);
    });
  }

  // For states that registers cannot hold, and the host.
  LIGER_DEVICE void in_two_readings(long long token, int thread, bool active) const {
    A weights[S.depth];
    A largest = minus_infinity<A>();
    for (int n = 0; n < S.depth; ++n) {
      Sums<2> sums;
      using Products = typename Sums<2>::Products;
      sums.add_products(thread, [&](int, int pack, Products* sum) {
        const auto x = load_pack<S.hidden, S.align_bytes>(state(n, token), pack);
        sum[0].add(x, x);
        sum[1].add(x, key_weight(pack));
      });
      const auto of_state = sums.across_row(thread);
      weights[n] = scored(of_state.v[0], of_state.v[1], n, token, active && thread == 0);
      largest = larger(largest, weights[n]);
    }
    if (!active) return;
    A exponentials = 0;
    for (A& weight : weights) {
      weight = exponential<true>(weight - largest);
      exponentials += weight;
    }
    const A share = quotient<true>(A(1), exponentials);
    for (A& weight : weights) weight *= share;
    Row::each(thread, [&](int, int pack) {
      auto mixed = filled(A(0));
      LIGER_UNROLL_BY(4) for (int n = 0; n < S.depth; ++n) {
        const auto x = load_pack<S.hidden, S.align_bytes>(state(n, token), pack);
        mixed = fused(x, filled(weights[n]), mixed);
      }
      store_pack<S.hidden, S.align_bytes>(y + token * S.hidden, pack, mixed);
    });
  }
};

struct AttnResBackwardSpec {
  Dtype v;
  Dtype query;
  Dtype norm;
  Dtype dy;
  bool want_dv;
  bool want_dweight;
  int depth;
  int hidden;
  int align_bytes;
  int stages;   // tokens whose dy and states are on chip at once; 0: none, they are read twice
  int threads;  // tuned; of one partial
  int rows;     // tuned; partials of one block
};

// With p = softmax(score), a[n] = sum of dy * v[n] and ds[n] = p[n] * (a[n] - sum of p * a):
//   dv[n] = p[n] * dy + ds[n] * rstd[n] * (query * norm - v[n] * rstd[n] * score[n] / hidden)
// and partial sums of ds[n] * rstd[n] * v[n], the gradient of query * norm.
template <AttnResBackwardSpec S>
struct AttnResBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.v>;
  using T = Type<S.v>;
  static constexpr bool resident = S.stages > 0;
  using Row = RowOf<S.hidden, S.threads, S.rows, resident>;
  using Weights = ColumnAccumulator<Row, S.hidden, resident, S.want_dweight, A>;

  const T* dy;
  const T* v;
  const Type<S.query>* query;
  const Type<S.norm>* norm;
  const A* score;
  const A* rstd;
  T* dv;
  A* partials;
  long long tokens;
  long long partial_rows;
  long long dy_stride;
  long long v_depth_stride;
  long long v_stride;

  LIGER_DEVICE void operator()(long long block) const {
    int stage = 0;
    each_partial<S.threads, S.rows>(
        block, tokens, partial_rows,
        [&](long long partial, int thread) { return Weights(partials, partial, thread); },
        [&](long long token, int thread) {
          stage = S.stages > 1 ? 1 - stage : 0;
          if constexpr (S.stages > 1) fetch(stage, token, thread);
          return stage;
        },
        [&](const Turn& turn, int at, Weights& weights) {
          if constexpr (S.stages == 1) fetch(at, turn.row, turn.thread);
          one_token(turn, at, weights);
        },
        [&](const Weights& weights, int thread) { weights.write(thread); });
  }

 private:
  static constexpr int unrolled = resident ? S.depth : 1;
  static constexpr int words = pack_size * sizeof(T) / 16;

  // Each thread reads what it has copied itself. Array 0 is dy, and 1 + n is state n.
  static LIGER_DEVICE unsigned char* place(int stage, int array, int slot, int word) {
    const int at = ((stage * (S.depth + 1) + array) * Row::slots + slot) * words + word;
    return shared_of_launch() + (at * block_threads + thread_index()) * 16;
  }
  LIGER_DEVICE const T* array_of(int array, long long token) const {
    return array == 0 ? dy + token * dy_stride
                      : v + (array - 1) * v_depth_stride + token * v_stride;
  }
  LIGER_DEVICE void fetch(int stage, long long token, int thread) const {
    LIGER_UNROLL for (int array = 0; array <= S.depth; ++array) {
      const T* const from = array_of(array, token);
      Row::each(thread, [&](int slot, int pack) {
        if (S.hidden % pack_size == 0 || pack < S.hidden / pack_size) {
          LIGER_UNROLL for (int word = 0; word < words; ++word) {
            copy_to_shared<S.align_bytes>(place(stage, array, slot, word),
                                          from + pack * pack_size + word * (16 / sizeof(T)));
          }
        } else {
          const auto raw = load_raw_pack<S.hidden, S.align_bytes>(from, pack);
          LIGER_UNROLL for (int word = 0; word < words; ++word) {
            copy_bytes(place(stage, array, slot, word), raw.words + word * 4, 16);
          }
        }
      });
    }
    end_group_of_copies();
  }

  LIGER_DEVICE Pack<A> at(int stage, int array, long long token, int slot, int pack) const {
    if constexpr (resident) {
      RawPack<T> raw;
      LIGER_UNROLL for (int word = 0; word < words; ++word) {
        read_shared(raw.words + word * 4, place(stage, array, slot, word));
      }
      return widened(raw);
    } else {
      return load_pack<S.hidden, S.align_bytes>(array_of(array, token), pack);
    }
  }

  LIGER_DEVICE void one_token(const Turn& turn, int stage, Weights& weights) const {
    A scores[S.depth];
    A rstds[S.depth];
    LIGER_UNROLL_BY(unrolled) for (int n = 0; n < S.depth; ++n) {
      scores[n] = score[n * tokens + turn.row];
      rstds[n] = rstd[n * tokens + turn.row];
    }
    if constexpr (S.stages > 1) wait_for_copies_before_the_last_group();
    if constexpr (S.stages == 1) wait_for_copies();
    A slopes[S.depth];
    dots(turn, stage, slopes);
    if (!turn.active) return;

    A shares[S.depth];
    softmax(scores, shares);
    A mean = 0;
    LIGER_UNROLL_BY(unrolled) for (int n = 0; n < S.depth; ++n) mean += shares[n] * slopes[n];
    // Of the key's weight and of the state itself in dv.
    A of_key[S.depth];
    A of_state[S.depth];
    LIGER_UNROLL_BY(unrolled) for (int n = 0; n < S.depth; ++n) {
      of_key[n] = shares[n] * (slopes[n] - mean) * rstds[n];
      of_state[n] = -of_key[n] * rstds[n] * scores[n] * A(1.0 / S.hidden);
    }
    Row::each(turn.thread, [&](int slot, int pack) {
      const auto d = at(stage, 0, turn.row, slot, pack);
      const auto key = load_pack<S.hidden, S.align_bytes, false>(query, pack) *
                       load_pack<S.hidden, S.align_bytes, false>(norm, pack);
      auto weight = filled(A(0));
      LIGER_UNROLL_BY(unrolled) for (int n = 0; n < S.depth; ++n) {
        const auto x = at(stage, 1 + n, turn.row, slot, pack);
        if constexpr (S.want_dv) {
          const auto g = fused(x, filled(of_state[n]), key * of_key[n]);
          store_pack<S.hidden, S.align_bytes>(dv + (n * tokens + turn.row) * S.hidden, pack,
                                              fused(d, filled(shares[n]), g));
        }
        if constexpr (S.want_dweight) weight = fused(x, filled(of_key[n]), weight);
      }
      if constexpr (S.want_dweight) weights.add(slot, pack, weight);
    });
  }

  LIGER_DEVICE void dots(const Turn& turn, int stage, A (&slopes)[S.depth]) const {
    constexpr int together = resident ? S.depth : 1;
    for (int first = 0; first < S.depth; first += together) {
      using Sums = RowSums<Row, S.threads, S.rows, together, A>;
      using Products = typename Sums::Products;
      Sums sums;
      sums.add_products(turn.thread, [&](int slot, int pack, Products* sum) {
        const auto d = at(stage, 0, turn.row, slot, pack);
        LIGER_UNROLL for (int i = 0; i < together; ++i) {
          sum[i].add(d, at(stage, 1 + first + i, turn.row, slot, pack));
        }
      });
      const auto of_states = sums.across_row(turn.thread);
      LIGER_UNROLL for (int i = 0; i < together; ++i) slopes[first + i] = of_states.v[i];
    }
  }

  static LIGER_DEVICE void softmax(const A (&scores)[S.depth], A (&shares)[S.depth]) {
    A largest = scores[0];
    LIGER_UNROLL_BY(unrolled)
    for (int n = 1; n < S.depth; ++n) largest = larger(largest, scores[n]);
    A exponentials = 0;
    LIGER_UNROLL_BY(unrolled) for (int n = 0; n < S.depth; ++n) {
      shares[n] = exponential<true>(scores[n] - largest);
      exponentials += shares[n];
    }
    const A share = quotient<true>(A(1), exponentials);
    LIGER_UNROLL_BY(unrolled) for (A& each : shares) each *= share;
  }
};

struct AttnResWeightsSpec {
  Dtype partial;
  Dtype query;
  Dtype norm;
  int hidden;
  int groups;  // a power of two from 32
};

// The gradients of query and norm out of partial sums of that of their product.
template <AttnResWeightsSpec S>
struct AttnResWeights {
  using A = Type<S.partial>;
  using Sum = SumOfPartials<S.hidden, S.groups, A>;
  static constexpr int block_threads = Sum::block_threads;

  const A* partials;
  const Type<S.query>* query;
  const Type<S.norm>* norm;
  Type<S.query>* dquery;
  Type<S.norm>* dnorm;
  long long partial_rows;

  LIGER_DEVICE void operator()(long long block) const {
    LIGER_SHARED typename Sum::Sums sums;
    Sum::each(sums, partials, partial_rows, static_cast<int>(block), [&](int column, A sum) {
      dquery[column] = narrow<Type<S.query>>(sum * widen(norm[column]));
      dnorm[column] = narrow<Type<S.norm>>(sum * widen(query[column]));
    });
  }
};

}  // namespace liger
