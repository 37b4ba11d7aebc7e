// y = max(x - tau, 0) over the last dimension, with the tau for which a row of y sums to one, and
// its gradient dx = dy - mean(dy) where y > 0, else 0.
//
// Martins and Astudillo, "From Softmax to Sparsemax", arXiv:1602.02068, without their sort:
// Newton's steps from the largest element less one, tau = (sum of the elements above tau - 1) /
// their number, rise to the solution, and reach it when no element is left behind (Michelot's
// projection). Only packs with an element above the first tau are looked at again.
#pragma once
#include "device/reread_row.h"

namespace liger {

// The elements above a tau, less the largest of all.
template <class Sum>
struct Support {
  Sum sum = 0;
  int count = 0;
};
template <class Sum>
LIGER_DEVICE Support<Sum> operator+(const Support<Sum>& a, const Support<Sum>& b) {
  return {a.sum + b.sum, a.count + b.count};
}
template <class Sum>
LIGER_DEVICE Support<Sum> shuffle_xor(const Support<Sum>& value, int mask) {
  return {shuffle_xor(value.sum, mask), shuffle_xor(value.count, mask)};
}

// Of a GPU the sum is one of integers, so that it does not depend on who adds what: their step is
// below the last bit of a float32 tau.
template <bool OnHost>
struct SupportSum {
  using Type = long long;
  static constexpr double one = 0x1p30;
};
template <>
struct SupportSum<true> {
  using Type = double;
  static constexpr double one = 1.0;
};

struct SparsemaxForwardSpec {
  Dtype x;
  int width;
  int align_bytes;
  bool held;
  int threads;  // tuned
  int rows;     // tuned
  int cluster;  // tuned: blocks of a row
  int kept;     // tuned: packs that a thread of a held row has in registers
};
using SparsemaxBackwardSpec = SparsemaxForwardSpec;

template <SparsemaxForwardSpec S>
struct SparsemaxForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static_assert(on_host || S.threads >= team_lanes, "rows of a team take as many steps");
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RereadRow<S, S.width, T>;
  using Sum = typename SupportSum<on_host>::Type;
  static constexpr double one = SupportSum<on_host>::one;

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
    const A max =
        row.template combined<A>([](int, const Pack<A>& v) { return combined(v, LargerOrNan{}); },
                                 LargerOrNan{}, minus_infinity<A>());
    if (!(max - max == A(0))) {  // NaN, or infinite
      row.fill(to, max - max);
      return;
    }
    const auto marks =
        row.marked([max](const Pack<A>& v) { return combined(v, LargerOrNan{}) - max > A(-1); });
    auto support = above(row, marks, 0, max, A(-1));
    A tau = step(support);
    for (int use = 1;; ++use) {
      const auto next = above(row, marks, use, max, tau);
      if (next.count >= support.count) break;
      support = next;
      tau = step(support);
    }
    row.store(to, [max, tau](int, const Pack<A>& v) {
      return map([max, tau](A x) { return larger((x - max) - tau, A(0)); }, v);
    });
  }

  static LIGER_DEVICE Support<Sum> above(const Row& row, unsigned long long marks, int use, A max,
                                         A tau) {
    return row.template of_marked<Support<Sum>>(
        marks, use,
        [max, tau](const Pack<A>& v) {
          Support<Sum> result;
          LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
            const A z = v.v[i] - max;
            const bool in = z > tau;
            result.sum += in ? in_units(z) : Sum(0);
            result.count += in;
          }
          return result;
        },
        Add{}, Support<Sum>{});
  }

  // Of a number from -1 to 0.
  static LIGER_DEVICE Sum in_units(A z) {
    if constexpr (on_host) return Sum(z);
    return static_cast<int>(z * A(one));
  }
  static LIGER_DEVICE A step(const Support<Sum>& support) {
    return A((static_cast<double>(support.sum) - one) / (support.count * one));
  }
};

template <SparsemaxBackwardSpec S>
struct SparsemaxBackward {
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
    const int count = y.template combined<int>(
        [](int, const Pack<A>& p) {
          int above = 0;
          LIGER_UNROLL for (int i = 0; i < pack_size; ++i) above += p.v[i] > A(0);
          return above;
        },
        Add{}, 0);
    const A sum = y.sum(
        false,
        [](int, const Pack<A>& p, const Pack<A>& d) {
          return map([](A p, A d) { return p > A(0) ? d : A(0); }, p, d);
        },
        dy);
    const A mean = sum / A(count);
    y.store(
        to,
        [mean](int, const Pack<A>& p, const Pack<A>& d) {
          // A row of NaN has a gradient of NaN.
          return map([mean](A p, A d) { return p == A(0) ? A(0) : d - mean; }, p, d);
        },
        dy);
  }
};

template <SparsemaxForwardSpec S>
constexpr int cluster_of<SparsemaxForward<S>> = S.cluster;
template <SparsemaxForwardSpec S>
constexpr int resident_of<SparsemaxForward<S>> = S.kept > 0 ? 768 / S.threads : 1;
template <SparsemaxBackwardSpec S>
constexpr int cluster_of<SparsemaxBackward<S>> = S.cluster;
template <SparsemaxBackwardSpec S>
constexpr int resident_of<SparsemaxBackward<S>> = S.kept > 0 ? 768 / S.threads : 1;

}  // namespace liger
