// y = f(x) of each element, and dx = dy * f'(x), for any function of one number.
#pragma once
#include "device/row.h"

namespace liger {

struct UnarySpec {
  Dtype x;
  int width;  // exact length of a row
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

// Function::value(x).
template <UnarySpec S, class Function>
struct UnaryForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;

  const Type<S.x>* x;
  Type<S.x>* y;
  long long rows;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (!active) return;
      Row::each(thread, [&](int, int pack) {
        const auto v = load_pack<S.width, S.align_bytes>(x + row * x_stride, pack);
        store_pack<S.width, S.align_bytes>(y + row * S.width, pack,
                                           map([](A one) { return Function::value(one); }, v));
      });
    });
  }
};

// Function::gradient(dy, x).
template <UnarySpec S, class Function>
struct UnaryBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;

  const Type<S.x>* dy;
  const Type<S.x>* x;
  Type<S.x>* dx;
  long long rows;
  long long dy_stride;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row_from_the_end<S.threads, S.rows>(
        block, rows, [&](long long row, int thread, bool active) {
          if (!active) return;
          Row::each(thread, [&](int, int pack) {
            const auto d = load_pack<S.width, S.align_bytes>(dy + row * dy_stride, pack);
            const auto v = load_pack<S.width, S.align_bytes>(x + row * x_stride, pack);
            store_pack<S.width, S.align_bytes>(
                dx + row * S.width, pack,
                map([](A one, A of) { return Function::gradient(one, of); }, d, v));
          });
        });
  }
};

}  // namespace liger
