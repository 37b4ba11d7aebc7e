// The factors of a token's residual streams, out of the products z of all its streams with phi:
//   mix = z * rsqrt(mean(x^2) + eps), logits = alpha * mix + b
//   h_pre = sigmoid(logits) + pre_eps, h_post = sigmoid(logits) * post_mult,
//   h_res = Sinkhorn's iteration on the logits' N x N.
#pragma once
#include "device/reduce.h"
#include "residual/sinkhorn.h"

namespace liger {

constexpr int tokens_of_block = 32;

struct MhcCoefficientsSpec {
  Dtype x;
  Dtype b;
  Dtype alpha;
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
  A* mix;  // null: not kept
  A* rstd;
  long long tokens;
  double rms_eps;
  double pre_eps;
  double sinkhorn_eps;
  double post_mult;

  LIGER_DEVICE void operator()(long long block) const {
    LIGER_SHARED A products[tokens_of_block][outputs + 1];
    const long long first = block * tokens_of_block;
    constexpr int values = tokens_of_block * (outputs + 1);
    for (int i = thread_index(); i < values; i += block_threads) {
      const int token = i / (outputs + 1);
      const int output = i % (outputs + 1);
      if (first + token < tokens) products[token][output] = of_slices(first + token, output);
    }
    barrier();
    for (int token = thread_index(); token < tokens_of_block; token += block_threads) {
      if (first + token < tokens) one_token(first + token, products[token]);
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

  LIGER_DEVICE void one_token(long long token, const A* products) const {
    const A r = reciprocal_root(products[outputs] * A(1.0 / S.elements) + A(rms_eps));
    const A pre = widen(*alpha_pre);
    const A post = widen(*alpha_post);
    const A res = widen(*alpha_res);
    const auto logit = [&](A alpha, int output) {
      const A mixed = products[output] * r;
      if (mix) mix[token * outputs + output] = mixed;
      return mixed * alpha + static_cast<A>(widen(b[output]));
    };
    LIGER_UNROLL for (int i = 0; i < N; ++i) {
      h_pre[token * N + i] = sigmoid<true>(logit(pre, i)) + A(pre_eps);
      h_post[token * N + i] = sigmoid<true>(logit(post, N + i)) * A(post_mult);
    }
    Matrix<N, A> logits;
    LIGER_UNROLL for (int i = 0; i < N; ++i) {
      LIGER_UNROLL for (int j = 0; j < N; ++j) logits.v[i][j] = logit(res, 2 * N + i * N + j);
    }
    const auto made = sinkhorn<S.steps>(logits, A(sinkhorn_eps), [](int, const Matrix<N, A>&) {});
    LIGER_UNROLL for (int i = 0; i < N; ++i) {
      LIGER_UNROLL for (int j = 0; j < N; ++j) h_res[(token * N + i) * N + j] = made.v[i][j];
    }
    if (rstd) rstd[token] = r;
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
  int threads;
};

// The gradients of logits, and per token the factors that StreamGradients reads. One token a
// thread.
template <MhcLogitsSpec S>
struct MhcLogits {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static constexpr int N = S.streams;
  static constexpr int outputs = N * N + 2 * N;
  using A = Arithmetic<S.x>;

  const A* dh_pre;
  const A* dh_mixture;  // by way of the mixture of h_pre
  const A* dh_post;
  const A* dh_res;
  const A* mix;
  const A* rstd;
  const Type<S.b>* b;
  const Type<S.alpha>* alpha_pre;
  const Type<S.alpha>* alpha_post;
  const Type<S.alpha>* alpha_res;
  A* dlogits;
  A* factors;
  long long tokens;
  long long factors_stride;
  double pre_eps;
  double sinkhorn_eps;
  double post_mult;

  LIGER_DEVICE void operator()(long long block) const {
    for (int i = thread_index(); i < S.threads; i += block_threads) {
      const long long token = block * S.threads + i;
      if (token < tokens) one_token(token);
    }
  }

 private:
  LIGER_DEVICE void one_token(long long token) const {
    const A* const mixed = mix + token * outputs;
    A* const of_token = factors + token * factors_stride;
    const A r = rstd[token];
    const A pre = widen(*alpha_pre);
    const A post = widen(*alpha_post);
    const A res = widen(*alpha_res);
    A own = 0;
    const auto put = [&](int output, A alpha, A gradient) {
      dlogits[token * outputs + output] = gradient;
      own = fused(gradient * alpha, mixed[output], own);
      of_token[output] = gradient * alpha * r;
    };
    LIGER_UNROLL for (int i = 0; i < N; ++i) {
      const A share = sigmoid<true>(mixed[i] * pre + static_cast<A>(widen(b[i])));
      A slope = dh_pre[token * N + i];
      if constexpr (S.has_mixture) {
        slope += dh_mixture[token * N + i];
        of_token[S.padded + 1 + i] = share + A(pre_eps);
      }
      put(i, pre, slope * share * (A(1) - share));
    }
    LIGER_UNROLL for (int i = 0; i < N; ++i) {
      const A share = sigmoid<true>(mixed[N + i] * post + static_cast<A>(widen(b[N + i])));
      put(N + i, post, dh_post[token * N + i] * A(post_mult) * share * (A(1) - share));
    }
    Matrix<N, A> logits;
    Matrix<N, A> gradient;
    LIGER_UNROLL for (int i = 0; i < N; ++i) {
      LIGER_UNROLL for (int j = 0; j < N; ++j) {
        const int output = 2 * N + i * N + j;
        logits.v[i][j] = mixed[output] * res + static_cast<A>(widen(b[output]));
        gradient.v[i][j] = dh_res[(token * N + i) * N + j];
      }
    }
    gradient = through_sinkhorn<S.steps>(logits, gradient, A(sinkhorn_eps));
    LIGER_UNROLL for (int i = 0; i < N; ++i) {
      LIGER_UNROLL for (int j = 0; j < N; ++j) put(2 * N + i * N + j, res, gradient.v[i][j]);
    }
    LIGER_UNROLL for (int output = outputs; output < S.padded; ++output) of_token[output] = A(0);
    of_token[S.padded] = -own * r * r * A(1.0 / S.elements);
  }
};

struct MhcVectorsSpec {
  Dtype x;
  Dtype b;
  Dtype alpha;
  int streams;
  int threads;
};

// The gradients of b and of the three alphas, one a block: sums over tokens of the logits'
// gradients, and of their products with mix.
template <MhcVectorsSpec S>
struct MhcVectors {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static constexpr int N = S.streams;
  static constexpr int outputs = N * N + 2 * N;
  using A = Arithmetic<S.x>;

  const A* dlogits;
  const A* mix;
  Type<S.b>* db;
  Type<S.alpha>* dalpha_pre;
  Type<S.alpha>* dalpha_post;
  Type<S.alpha>* dalpha_res;
  long long tokens;

  LIGER_DEVICE void operator()(long long block) const {
    if (block < outputs) {
      const int output = static_cast<int>(block);
      const A sum = over_tokens<1>([&](long long i) { return dlogits[i * outputs + output]; });
      if (thread_index() == 0) db[output] = narrow<Type<S.b>>(sum);
    } else if (block == outputs) {
      alpha<N>(dalpha_pre, 0);
    } else if (block == outputs + 1) {
      alpha<N>(dalpha_post, N);
    } else {
      alpha<N * N>(dalpha_res, 2 * N);
    }
  }

 private:
  template <int Count>
  LIGER_DEVICE void alpha(Type<S.alpha>* to, int first) const {
    const A sum = over_tokens<Count>([&](long long i) {
      const long long at = i / Count * outputs + first + i % Count;
      return dlogits[at] * mix[at];
    });
    if (thread_index() == 0) *to = narrow<Type<S.alpha>>(sum);
  }

  // Eight sums a thread, so that as many loads are on their way.
  template <int Count, class F>
  LIGER_DEVICE A over_tokens(F&& f) const {
    constexpr int strands = 8;
    A sums[strands] = {};
    const long long all = tokens * Count;
    for (long long base = thread_index(); base < all; base += block_threads * strands) {
      A values[strands];
      LIGER_UNROLL for (int i = 0; i < strands; ++i) {
        const long long at = base + i * block_threads;
        values[i] = f(at < all ? at : all - 1);  // no branch stands between the loads
      }
      LIGER_UNROLL for (int i = 0; i < strands; ++i) {
        if (base + i * block_threads < all) sums[i] += values[i];
      }
    }
    tree_reduce<strands>(sums, Add{});
    return across_threads<block_threads, 1>(sums[0], Add{});
  }
};

}  // namespace liger
