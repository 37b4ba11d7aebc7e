// Sinkhorn's iteration on the N x N matrix of one token: the softmax of each row plus eps, then in
// turn columns and rows divided by their sums plus eps, columns last. On a GPU neighbouring lanes
// of a warp have a row each and must all come here; on the host one thread has all rows.
#pragma once
#include "device/reduce.h"
#include "device/softmax.h"

namespace liger {

// Lanes without a row, where N is no power of two, count nothing in sums of columns.
template <int N, class A>
struct Matrix {
  static constexpr int lanes = on_host ? 1 : power_of_two_from(N);
  static constexpr int rows = on_host ? N : 1;  // of one lane

  A v[rows][N];

  static LIGER_DEVICE int first_row() { return thread_index() % lanes; }
  static LIGER_DEVICE bool has_row() { return lanes == N || on_host || first_row() < N; }
  static LIGER_DEVICE A over_lanes(A value) {
    return meet_by_shuffles<lanes>(has_row() ? value : A(0), Add{});
  }
  template <class F>
  static LIGER_DEVICE A over_column(F&& element) {
    A sum = element(0);
    LIGER_UNROLL for (int i = 1; i < rows; ++i) sum += element(i);
    return over_lanes(sum);
  }
};

template <int N, class A>
LIGER_DEVICE Matrix<N, A> softmax_of_rows(const Matrix<N, A>& logits) {
  Matrix<N, A> m;
  LIGER_UNROLL for (int i = 0; i < m.rows; ++i) {
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

// Each row divided by its sum plus eps.
template <int N, class A>
LIGER_DEVICE Matrix<N, A> with_rows_normalised(Matrix<N, A> m, A eps) {
  LIGER_UNROLL for (auto& row : m.v) {
    A sum = 0;
    LIGER_UNROLL for (const A element : row) sum += element;
    const A share = quotient<true>(A(1), sum + eps);
    LIGER_UNROLL for (A& element : row) element = element * share;
  }
  return m;
}

template <int N, class A>
LIGER_DEVICE Matrix<N, A> with_columns_normalised(Matrix<N, A> m, A eps) {
  LIGER_UNROLL for (int j = 0; j < N; ++j) {
    const A sum = m.over_column([&](int i) { return m.v[i][j]; });
    const A share = quotient<true>(A(1), sum + eps);
    LIGER_UNROLL for (auto& row : m.v) row[j] = row[j] * share;
  }
  return m;
}

// The gradient of what was normalised: `made` is the result, `before` what it was made of.
template <int N, class A>
LIGER_DEVICE Matrix<N, A> through_normalised_rows(const Matrix<N, A>& gradient,
                                                  const Matrix<N, A>& made,
                                                  const Matrix<N, A>& before, A eps) {
  Matrix<N, A> result;
  LIGER_UNROLL for (int i = 0; i < result.rows; ++i) {
    A sum = 0;
    A mean = 0;
    LIGER_UNROLL for (int j = 0; j < N; ++j) {
      sum += before.v[i][j];
      mean = fused(gradient.v[i][j], made.v[i][j], mean);
    }
    const A share = quotient<true>(A(1), sum + eps);
    LIGER_UNROLL for (int j = 0; j < N; ++j) { result.v[i][j] = (gradient.v[i][j] - mean) * share; }
  }
  return result;
}

template <int N, class A>
LIGER_DEVICE Matrix<N, A> through_normalised_columns(const Matrix<N, A>& gradient,
                                                     const Matrix<N, A>& made,
                                                     const Matrix<N, A>& before, A eps) {
  Matrix<N, A> result;
  LIGER_UNROLL for (int j = 0; j < N; ++j) {
    const A sum = result.over_column([&](int i) { return before.v[i][j]; });
    const A mean = result.over_column([&](int i) { return gradient.v[i][j] * made.v[i][j]; });
    const A share = quotient<true>(A(1), sum + eps);
    LIGER_UNROLL for (int i = 0; i < result.rows; ++i) {
      result.v[i][j] = (gradient.v[i][j] - mean) * share;
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
  auto m = with_columns_normalised(plus(softmax_of_rows(logits), eps), eps);
  keep(0, m);
  LIGER_UNROLL_BY(1) for (int step = 1; step < Steps; ++step) {
    m = with_columns_normalised(with_rows_normalised(m, eps), eps);
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
    const auto rows = with_rows_normalised(kept[step - 1], eps);
    gradient = through_normalised_columns(gradient, kept[step], rows, eps);
    gradient = through_normalised_rows(gradient, rows, kept[step - 1], eps);
  }
  const auto softmax = softmax_of_rows(logits);
  gradient = through_normalised_columns(gradient, kept[0], plus(softmax, eps), eps);
  LIGER_UNROLL for (int i = 0; i < gradient.rows; ++i) {
    A mean = 0;
    LIGER_UNROLL for (int j = 0; j < N; ++j) mean += gradient.v[i][j] * softmax.v[i][j];
    LIGER_UNROLL for (int j = 0; j < N; ++j) {
      gradient.v[i][j] = softmax.v[i][j] * (gradient.v[i][j] - mean);
    }
  }
  return gradient;
}

}  // namespace liger
