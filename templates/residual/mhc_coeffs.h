// The factors of a token's residual streams, out of the products z of all its streams with phi:
//   mix = z * rsqrt(mean(x^2) + eps), logits = alpha * mix + b
//   h_pre = sigmoid(logits) + pre_eps, h_post = sigmoid(logits) * post_mult,
//   h_res = Sinkhorn's iteration on the logits' N x N.
#pragma once
#include "device/reduce.h"
#include "residual/sinkhorn.h"

namespace liger {

constexpr int tokens_of_block = 16;

struct MhcCoefficientsSpec {
  Dtype x;
  Dtype b;
  Dtype alpha;
  bool has_mixture;
  int streams;   // N
  int steps;     // of Sinkhorn's iteration
  int elements;  // of a token
  int slices;    // parts of a token's products
  int at_once;   // outputs in a part
  int groups;
  int threads;
};

template <MhcCoefficientsSpec S>
struct MhcCoefficients {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static constexpr int N = S.streams;
  static constexpr int outputs = N * N + 2 * N;
  using A = Arithmetic<S.x>;

  const A* parts;  // as StreamProducts writes them
  const Type<S.b>* b;
  const Type<S.alpha>* alpha_pre;
  const Type<S.alpha>* alpha_post;
  const Type<S.alpha>* alpha_res;
  A* h_pre;
  A* h_post;
  A* h_res;
  Type<S.x>* streams;  // one element, which nobody reads
  A* mix;              // null: not kept
  A* rstd;
  long long tokens;
  double rms_eps;
  double pre_eps;
  double sinkhorn_eps;
  double post_mult;

  LIGER_DEVICE void operator()(long long block) const {
    LIGER_SHARED A products[tokens_of_block][outputs + 1];
    const long long first = block * tokens_of_block;
    if constexpr (S.has_mixture) {
      if (block == 0 && thread_index() == 0) *streams = narrow<Type<S.x>>(A(0));
    }
    constexpr int values = tokens_of_block * (outputs + 1);
    for (int i = thread_index(); i < values; i += block_threads) {
      const int token = i / (outputs + 1);
      const int output = i % (outputs + 1);
      if (first + token < tokens) products[token][output] = of_slices(first + token, output);
    }
    barrier();
    constexpr int lanes = Matrix<N, A>::lanes;
    for (int i = thread_index(); i < tokens_of_block * lanes; i += block_threads) {
      one_token(first + i / lanes, products[i / lanes]);
    }
  }

 private:
  LIGER_DEVICE A of_slices(long long token, int output) const {
    constexpr int part = 16;
    const int at = output == outputs ? S.at_once : output / S.at_once * part + output % S.at_once;
    const A* const from = parts + token * S.slices * S.groups * part + at;
    A sum = 0;
    LIGER_UNROLL_BY(8) for (int slice = 0; slice < S.slices; ++slice) {
      sum += from[slice * S.groups * part];
    }
    return sum;
  }

  // By all lanes of a warp, those of tokens past the end too.
  LIGER_DEVICE void one_token(long long token, const A* products) const {
    const A r = reciprocal_root(products[outputs] * A(1.0 / S.elements) + A(rms_eps));
    const A pre = widen(*alpha_pre);
    const A post = widen(*alpha_post);
    const A res = widen(*alpha_res);
    const bool writes = token < tokens && Matrix<N, A>::has_row();
    const int first = writes ? Matrix<N, A>::first_row() : 0;
    const auto logit = [&](A alpha, int output) {
      const A mixed = products[output] * r;
      if (mix && writes) mix[token * outputs + output] = mixed;
      return mixed * alpha + static_cast<A>(widen(b[output]));
    };
    Matrix<N, A> logits;
    LIGER_UNROLL for (int i = 0; i < logits.rows; ++i) {
      const int row = first + i;
      const A share_pre = sigmoid<true>(logit(pre, row)) + A(pre_eps);
      const A share_post = sigmoid<true>(logit(post, N + row)) * A(post_mult);
      if (writes) {
        h_pre[token * N + row] = share_pre;
        h_post[token * N + row] = share_post;
      }
      LIGER_UNROLL for (int j = 0; j < N; ++j) logits.v[i][j] = logit(res, 2 * N + row * N + j);
    }
    const auto made = sinkhorn<S.steps>(logits, A(sinkhorn_eps), [](int, const Matrix<N, A>&) {});
    if (!writes) return;
    LIGER_UNROLL for (int i = 0; i < made.rows; ++i) {
      LIGER_UNROLL for (int j = 0; j < N; ++j) h_res[(token * N + first + i) * N + j] =
          made.v[i][j];
    }
    if (rstd && first == 0) rstd[token] = r;
  }
};

struct MhcLogitsSpec {
  Dtype x;
  Dtype b;
  Dtype alpha;
  bool has_mixture;
  int streams;
  int steps;
  int elements;
  int padded;  // outputs in a row of factors
  bool want_vectors;
  int threads;
};

// The gradients of logits: per token the factors that StreamGradients reads, and over the tokens of
// a partial their sums, then those of their products with mix for each of the three alphas.
template <MhcLogitsSpec S>
struct MhcLogits {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static constexpr int N = S.streams;
  static constexpr int outputs = N * N + 2 * N;
  using A = Arithmetic<S.x>;
  using Square = Matrix<N, A>;
  static constexpr int block_tokens = S.threads / Square::lanes;
  // One for the lanes that meet by shuffles.
  static constexpr int partials_of_block = on_host ? 1 : S.threads / team_lanes;

  const A* dh_pre;      // null: nothing arrived, here and below
  const A* dh_mixture;  // by way of the mixture of h_pre
  const A* dh_post;
  const A* dh_res;
  const A* mix;
  const A* rstd;
  const Type<S.b>* b;
  const Type<S.alpha>* alpha_pre;
  const Type<S.alpha>* alpha_post;
  const Type<S.alpha>* alpha_res;
  A* partials;  // [partial][outputs + 3]
  A* factors;
  long long tokens;
  long long factors_stride;
  double pre_eps;
  double sinkhorn_eps;
  double post_mult;

  LIGER_DEVICE void operator()(long long block) const {
    Sums sums = {};
    for (int i = 0; i < block_tokens; i += block_threads / Square::lanes) {
      one_token(block * block_tokens + i + thread_index() / Square::lanes, sums);
    }
    if constexpr (S.want_vectors) put(sums, block);
  }

 private:
  // Of the rows of one lane.
  struct Sums {
    A pre[Square::rows];
    A post[Square::rows];
    A res[Square::rows][N];
    A alphas[3];
  };

  // By all lanes of a warp, those of tokens past the end too.
  LIGER_DEVICE void one_token(long long at, Sums& sums) const {
    const bool writes = at < tokens && Square::has_row();
    const long long token = at < tokens ? at : tokens - 1;
    const int first = Square::has_row() ? Square::first_row() : 0;
    const A* const mixed = mix + token * outputs;
    A* const of_token = factors + token * factors_stride;
    const A r = rstd[token];
    const A pre = widen(*alpha_pre);
    const A post = widen(*alpha_post);
    const A res = widen(*alpha_res);
    A own = 0;
    const auto put = [&](int output, A alpha, A gradient, A& sum, A& of_alpha) {
      own = fused(gradient * alpha, mixed[output], own);
      if (!writes) return;
      sum += gradient;
      of_alpha = fused(gradient, mixed[output], of_alpha);
      of_token[output] = gradient * alpha * r;
    };
    LIGER_UNROLL for (int i = 0; i < Square::rows; ++i) {
      const int row = first + i;
      const A share = sigmoid<true>(mixed[row] * pre + static_cast<A>(widen(b[row])));
      A slope = dh_pre ? dh_pre[token * N + row] : A(0);
      if constexpr (S.has_mixture) {
        slope += dh_mixture[token * N + row];
        if (writes) of_token[S.padded + 1 + row] = share + A(pre_eps);
      }
      put(row, pre, slope * share * (A(1) - share), sums.pre[i], sums.alphas[0]);
    }
    LIGER_UNROLL for (int i = 0; i < Square::rows; ++i) {
      const int output = N + first + i;
      const A share = sigmoid<true>(mixed[output] * post + static_cast<A>(widen(b[output])));
      const A slope = dh_post ? dh_post[token * N + first + i] * A(post_mult) : A(0);
      put(output, post, slope * share * (A(1) - share), sums.post[i], sums.alphas[1]);
    }
    Square logits;
    Square gradient;
    LIGER_UNROLL for (int i = 0; i < Square::rows; ++i) {
      LIGER_UNROLL for (int j = 0; j < N; ++j) {
        const int output = 2 * N + (first + i) * N + j;
        logits.v[i][j] = mixed[output] * res + static_cast<A>(widen(b[output]));
        gradient.v[i][j] = dh_res ? dh_res[(token * N + first + i) * N + j] : A(0);
      }
    }
    gradient = through_sinkhorn<S.steps>(logits, gradient, A(sinkhorn_eps));
    LIGER_UNROLL for (int i = 0; i < Square::rows; ++i) {
      LIGER_UNROLL for (int j = 0; j < N; ++j) {
        put(2 * N + (first + i) * N + j, res, gradient.v[i][j], sums.res[i][j], sums.alphas[2]);
      }
    }
    own = Square::over_lanes(own);
    if (!writes || first != 0) return;
    LIGER_UNROLL for (int output = outputs; output < S.padded; ++output) of_token[output] = A(0);
    of_token[S.padded] = -own * r * r * A(1.0 / S.elements);
  }

  LIGER_DEVICE void put(const Sums& sums, long long block) const {
    const long long partial = block * partials_of_block + thread_index() / team_lanes;
    A* const to = partials + partial * (outputs + 3);
    const int token = thread_index() % team_lanes / Square::lanes;
    const bool writes = token == 0 && Square::has_row();
    const int first = Square::first_row();
    const auto put_one = [&](int output, A value) {
      const A sum = over_tokens(value);
      if (writes) to[output] = sum;
    };
    LIGER_UNROLL for (int i = 0; i < Square::rows; ++i) {
      put_one(first + i, sums.pre[i]);
      put_one(N + first + i, sums.post[i]);
      LIGER_UNROLL for (int j = 0; j < N; ++j) put_one(2 * N + (first + i) * N + j, sums.res[i][j]);
    }
    LIGER_UNROLL for (int i = 0; i < 3; ++i) {
      const A sum = over_tokens(Square::over_lanes(sums.alphas[i]));
      if (writes && first == 0) to[outputs + i] = sum;
    }
  }
  // Of the lanes that have the same row of different tokens.
  static LIGER_DEVICE A over_tokens(A value) {
    LIGER_UNROLL for (int mask = on_host ? 0 : team_lanes / 2; mask >= Square::lanes; mask /= 2) {
      value += shuffle_xor(value, mask);
    }
    return value;
  }
};

struct MhcVectorsSpec {
  Dtype x;
  Dtype b;
  Dtype alpha;
  int streams;
  int threads;
};

// The gradients of b and of the three alphas, one a block: the sum of its partials.
template <MhcVectorsSpec S>
struct MhcVectors {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static constexpr int outputs = S.streams * S.streams + 2 * S.streams;
  using A = Arithmetic<S.x>;

  const A* partials;
  Type<S.b>* db;
  Type<S.alpha>* dalpha_pre;
  Type<S.alpha>* dalpha_post;
  Type<S.alpha>* dalpha_res;
  long long count;  // of partials

  LIGER_DEVICE void operator()(long long block) const {
    A of_thread = 0;
    LIGER_UNROLL_BY(4) for (long long i = thread_index(); i < count; i += block_threads) {
      of_thread += partials[i * (outputs + 3) + block];
    }
    const A sum = across_threads<block_threads, 1>(of_thread, Add{});
    if (thread_index() != 0) return;
    if (block < outputs) db[block] = narrow<Type<S.b>>(sum);
    if (block == outputs) *dalpha_pre = narrow<Type<S.alpha>>(sum);
    if (block == outputs + 1) *dalpha_post = narrow<Type<S.alpha>>(sum);
    if (block == outputs + 2) *dalpha_res = narrow<Type<S.alpha>>(sum);
  }
};

}  // namespace liger
