// Sinkhorn's iteration on the N x N matrix of one token, by one thread: the softmax of each row
// plus eps, then in turn columns and rows divided by their sums plus eps, columns last.
#pragma once
#include "device/math.h"
#include "device/softmax.h"

namespace liger {

template <int N, class A>
struct Matrix {
  A v[N][N];
};

template <int N, class A>
LIGER_DEVICE Matrix<N, A> softmax_of_rows(const Matrix<N, A>& logits) {
  Matrix<N, A> m;
  LIGER_UNROLL for (int i = 0; i < N; ++i) {
    A largest = logits.v[i][0];
    LIGER_UNROLL for (int j = 1; j < N; ++j) largest = larger(largest, logits.v[i][j]);
    A sum = 0;
    LIGER_UNROLL for (int j = 0; j < N; ++j) {
      m.v[i][j] = exponential<true>(logits.v[i][j] - largest);
      sum += m.v[i][j];
    }
    LIGER_UNROLL for (int j = 0; j < N; ++j) m.v[i][j] = quotient<true>(m.v[i][j], sum);
  }
  return m;
}

// Each line, a row or a column, divided by its sum plus eps.
template <bool Rows, int N, class A>
LIGER_DEVICE Matrix<N, A> normalised(Matrix<N, A> m, A eps) {
  LIGER_UNROLL for (int i = 0; i < N; ++i) {
    A sum = 0;
    LIGER_UNROLL for (int j = 0; j < N; ++j) sum += Rows ? m.v[i][j] : m.v[j][i];
    const A share = quotient<true>(A(1), sum + eps);
    LIGER_UNROLL for (int j = 0; j < N; ++j) {
      A& element = Rows ? m.v[i][j] : m.v[j][i];
      element = element * share;
    }
  }
  return m;
}

// The gradient of what was normalised: `made` is the result, `before` what it was made of.
template <bool Rows, int N, class A>
LIGER_DEVICE Matrix<N, A> through_normalised(const Matrix<N, A>& gradient, const Matrix<N, A>& made,
                                             const Matrix<N, A>& before, A eps) {
  Matrix<N, A> result;
  LIGER_UNROLL for (int i = 0; i < N; ++i) {
    A sum = 0;
    A mean = 0;
    LIGER_UNROLL for (int j = 0; j < N; ++j) {
      sum += Rows ? before.v[i][j] : before.v[j][i];
      mean = Rows ? fused(gradient.v[i][j], made.v[i][j], mean)
                  : fused(gradient.v[j][i], made.v[j][i], mean);
    }
    const A share = quotient<true>(A(1), sum + eps);
    LIGER_UNROLL for (int j = 0; j < N; ++j) {
      if (Rows) {
        result.v[i][j] = (gradient.v[i][j] - mean) * share;
      } else {
        result.v[j][i] = (gradient.v[j][i] - mean) * share;
      }
    }
  }
  return result;
}

template <int N, class A>
LIGER_DEVICE Matrix<N, A> plus(Matrix<N, A> m, A eps) {
  LIGER_UNROLL for (auto& row : m.v) { LIGER_UNROLL for (A& element : row) element += eps; }
  return m;
}

// `Steps` normalisations of columns; keep(step, matrix) sees what each gives.
template <int Steps, int N, class A, class Keep>
LIGER_DEVICE Matrix<N, A> sinkhorn(const Matrix<N, A>& logits, A eps, Keep&& keep) {
  auto m = normalised<false>(plus(softmax_of_rows(logits), eps), eps);
  keep(0, m);
  LIGER_UNROLL_BY(1) for (int step = 1; step < Steps; ++step) {
    m = normalised<false>(normalised<true>(m, eps), eps);
    keep(step, m);
  }
  return m;
}

// The gradient of the logits. Rows are normalised anew from the kept matrices, so nothing is
// divided back.
template <int Steps, int N, class A>
LIGER_DEVICE Matrix<N, A> through_sinkhorn(const Matrix<N, A>& logits, Matrix<N, A> gradient,
                                           A eps) {
  Matrix<N, A> kept[Steps];
  sinkhorn<Steps>(logits, eps, [&](int step, const Matrix<N, A>& m) { kept[step] = m; });
  LIGER_UNROLL_BY(1) for (int step = Steps - 1; step > 0; --step) {
    const auto rows = normalised<true>(kept[step - 1], eps);
    gradient = through_normalised<false>(gradient, kept[step], rows, eps);
    gradient = through_normalised<true>(gradient, rows, kept[step - 1], eps);
  }
  const auto softmax = softmax_of_rows(logits);
  gradient = through_normalised<false>(gradient, kept[0], plus(softmax, eps), eps);
  LIGER_UNROLL for (int i = 0; i < N; ++i) {
    A mean = 0;
    LIGER_UNROLL for (int j = 0; j < N; ++j) mean += gradient.v[i][j] * softmax.v[i][j];
    LIGER_UNROLL for (int j = 0; j < N; ++j) {
      gradient.v[i][j] = softmax.v[i][j] * (gradient.v[i][j] - mean);
    }
  }
  return gradient;
}

}  // namespace liger
