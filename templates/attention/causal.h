// Rows of square matrices [.., N, N] of which row i has the columns up to i: what lies beyond is
// neither read nor computed with.
//   CausalSoftmaxForward   y = softmax over the columns up to i, and 0 beyond
//   CausalSoftmaxBackward  dx = y * (dy - sum(y * dy)), and 0 beyond
//   LowerTriangle          y = x up to i, and `fill` beyond
//   ClearUpperTriangle     x = 0 beyond, in place
#pragma once
#include "device/softmax.h"

namespace liger {

struct CausalSoftmaxForwardSpec {
  Dtype x;
  int width;
  int align_bytes;
  bool resident;
  int threads;  // tuned
  int rows;     // tuned
};
using CausalSoftmaxBackwardSpec = CausalSoftmaxForwardSpec;
using LowerTriangleSpec = CausalSoftmaxForwardSpec;
using ClearUpperTriangleSpec = CausalSoftmaxForwardSpec;

// One thread's share of the columns up to `last`; those beyond are `beyond`.
template <auto S>
class CausalShare {
 public:
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RowOf<S.width, S.threads, S.rows, S.resident>;

  LIGER_DEVICE CausalShare(const T* row, int thread, int last) : row_(row), last_(last) {
    if constexpr (S.resident) {
      Row::each(thread, [&](int slot, int pack) {
        packs_[slot] = pack * pack_size <= last_ ? load_raw_pack<S.width, S.align_bytes>(row, pack)
                                                 : RawPack<T>{};
      });
    }
  }
  LIGER_DEVICE Pack<A> at(int slot, int pack, A beyond) const {
    if (is_beyond(pack)) return filled(beyond);
    Pack<A> values;
    if constexpr (S.resident) {
      values = widened(packs_[slot]);
    } else {
      values = load_pack<S.width, S.align_bytes>(row_, pack);
    }
    if (on_host && (pack + 1) * pack_size <= last_ + 1) return values;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      if (pack * pack_size + i > last_) values.v[i] = beyond;
    }
    return values;
  }
  // Of such a pack the host computes nothing; threads of a GPU would wait for one another.
  LIGER_DEVICE bool is_beyond(int pack) const { return pack * pack_size > last_; }

 private:
  const T* row_;
  int last_;
  RawPack<T> packs_[S.resident ? Row::slots : 1];
};

template <CausalSoftmaxForwardSpec S>
struct CausalSoftmaxForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = S.x == Dtype::f32 || S.x == Dtype::f64;
  using Share = CausalShare<S>;
  using A = typename Share::A;
  using Row = typename Share::Row;

  const Type<S.x>* x;
  Type<S.x>* y;
  long long rows;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const Share share(x + row * x_stride, thread, static_cast<int>(row % S.width));
      const auto at = [&](int slot, int pack) { return share.at(slot, pack, minus_infinity<A>()); };
      const A max =
          finite(Row::template combined_elements<A>(thread, at, Larger{}, minus_infinity<A>()));
      const auto weight = [max](A one) { return probability<exact>(one - max); };
      const A sum = Row::template sum_of_made<A>(thread, [&](int slot, int pack) {
        if constexpr (on_host) {
          if (share.is_beyond(pack)) return filled(A(0));
        }
        return map(weight, at(slot, pack));
      });
      const A share_of_one = quotient<exact>(A(1), sum);
      if (!active) return;
      Row::each(thread, [&](int slot, int pack) {
        if constexpr (on_host) {
          if (share.is_beyond(pack))
            return store_pack<S.width, S.align_bytes>(y + row * S.width, pack, filled(A(0)));
        }
        const auto made = map(
            [&](A one) { return quotient<exact>(weight(one), sum, share_of_one); }, at(slot, pack));
        store_pack<S.width, S.align_bytes>(y + row * S.width, pack, made);
      });
    });
  }
};

template <CausalSoftmaxBackwardSpec S>
struct CausalSoftmaxBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using Share = CausalShare<S>;
  using A = typename Share::A;
  using Row = typename Share::Row;

  const Type<S.x>* dy;
  const Type<S.x>* y;
  Type<S.x>* dx;
  long long rows;
  long long dy_stride;
  long long y_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row_from_the_end<S.threads, S.rows>(
        block, rows, [&](long long row, int thread, bool active) {
          const int last = static_cast<int>(row % S.width);
          const Share share(y + row * y_stride, thread, last);
          const Share upstream(dy + row * dy_stride, thread, last);
          const A dot = Row::template sum_of_made<A>(thread, [&](int slot, int pack) {
            if constexpr (on_host) {
              if (share.is_beyond(pack)) return filled(A(0));
            }
            return share.at(slot, pack, 0) * upstream.at(slot, pack, 0);
          });
          if (!active) return;
          Row::each(thread, [&](int slot, int pack) {
            if constexpr (on_host) {
              if (share.is_beyond(pack))
                return store_pack<S.width, S.align_bytes>(dx + row * S.width, pack, filled(A(0)));
            }
            const auto made = map([dot](A p, A d) { return p * (d - dot); },
                                  share.at(slot, pack, 0), upstream.at(slot, pack, 0));
            store_pack<S.width, S.align_bytes>(dx + row * S.width, pack, made);
          });
        });
  }
};

template <LowerTriangleSpec S>
struct LowerTriangle {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using Share = CausalShare<S>;
  using A = typename Share::A;
  using Row = typename Share::Row;

  const Type<S.x>* x;
  Type<S.x>* y;
  long long rows;
  long long x_stride;
  double fill;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (!active) return;
      const Share share(x + row * x_stride, thread, static_cast<int>(row % S.width));
      Row::each(thread, [&](int slot, int pack) {
        store_pack<S.width, S.align_bytes>(y + row * S.width, pack, share.at(slot, pack, A(fill)));
      });
    });
  }
};

template <ClearUpperTriangleSpec S>
struct ClearUpperTriangle {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using T = Type<S.x>;
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;

  T* x;
  long long rows;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (!active) return;
      const int last = static_cast<int>(row % S.width);
      T* const to = x + row * x_stride;
      Row::each(thread, [&](int, int pack) {
        if (pack * pack_size > last) {
          store_pack<S.width, S.align_bytes>(to, pack, filled(A(0)));
        } else if (pack == last / pack_size) {
          for (int column = last + 1; column < S.width && column < (pack + 1) * pack_size; ++column)
            to[column] = narrow<T>(A(0));
        }
      });
    });
  }
};

}  // namespace liger
