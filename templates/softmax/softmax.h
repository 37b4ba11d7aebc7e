// y = softmax(x) over the last dimension, and its gradient dx = y * (dy - sum(y * dy)). A row is
// read once and held on the chip where it fits there.
#pragma once
#include "device/reread_row.h"

namespace liger {

struct SoftmaxForwardSpec {
  Dtype x;
  int width;
  int align_bytes;
  bool held;
  int threads;  // tuned
  int rows;     // tuned
  int cluster;  // tuned: blocks of a row
  int kept;     // tuned: packs that a thread of a held row has in registers
};
using SoftmaxBackwardSpec = SoftmaxForwardSpec;

// Weights over their sum. share: 1 / sum.
template <bool Exact, class A>
struct SharesOf {
  A sum;
  A share;
  template <class F>
  LIGER_DEVICE Pack<A> operator()(const Pack<A>& from, F&& weight_of) const {
    if (!Exact) return map(weight_of, from) * share;
    // Not times 1 / sum, whose rounding would shift the whole row.
    return map([&](A one) { return quotient<Exact>(weight_of(one), sum, share); }, from);
  }
};

template <SoftmaxForwardSpec S>
struct SoftmaxForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = S.x == Dtype::f32 || S.x == Dtype::f64;
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RereadRow<S, S.width, T>;

  const T* x;
  T* y;
  long long rows;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_reread_row<S>(block, rows, [&](long long row, int share) {
      one_row(Row(x + row * x_stride, share), y + row * S.width);
    });
  }

 private:
  LIGER_DEVICE void one_row(Row row, T* to) const {
    row.read();
    const A max = finite(row.largest());
    const auto weight = [max](A one) { return probability<exact>(one - max); };
    typename Row::Terms kept;
    const A sum = row.sum_of_terms(to, kept, weight);
    const A share = quotient<exact>(A(1), sum);
    row.store_terms(to, kept, weight, SharesOf<exact, A>{sum, share});
  }
};

template <SoftmaxBackwardSpec S>
struct SoftmaxBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RereadRow<S, S.width, T>;

  const T* dy;
  const T* y;
  T* dx;
  long long rows;
  long long dy_stride;
  long long y_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_reread_row<S>(block, rows, [&](long long row, int share) {
      one_row(Row(y + row * y_stride, share), Row(dy + row * dy_stride, share, 1),
              dx + row * S.width);
    });
  }

 private:
  LIGER_DEVICE void one_row(Row y, Row dy, T* to) const {
    y.read();
    dy.read();
    y.wait();
    const A dot = y.sum(
        false,
        [](int column, const Pack<A>& p, const Pack<A>& d) {
          return present<S.width>(column, p * d, A(0));
        },
        dy);
    y.store(
        to,
        [dot](int, const Pack<A>& p, const Pack<A>& d) {
          if constexpr (on_host) return p * (d + (-dot));
          return map([dot](A p, A d) { return p * (d - dot); }, p, d);
        },
        dy);
  }
};

template <SoftmaxForwardSpec S>
constexpr int cluster_of<SoftmaxForward<S>> = S.cluster;
template <SoftmaxForwardSpec S>
constexpr int resident_of<SoftmaxForward<S>> = S.kept > 0 ? 768 / S.threads : 1;
template <SoftmaxBackwardSpec S>
constexpr int cluster_of<SoftmaxBackward<S>> = S.cluster;
template <SoftmaxBackwardSpec S>
constexpr int resident_of<SoftmaxBackward<S>> = S.kept > 0 ? 768 / S.threads : 1;

}  // namespace liger
