// A row that a kernel uses several times: held on the chip, or read anew each time, as the spec
// says, which has `align_bytes`, `held`, `threads`, `rows`, `cluster` and `kept`.
#pragma once
#include "device/resident_row.h"
#include "device/streamed_row.h"

namespace liger {

// `Constant`: nothing writes to the row while the kernel runs.
template <auto S, int N, class T, bool Constant, bool Held = S.held>
struct RereadRowOf {
  using Type = ResidentRow<N, S.threads, S.cluster, S.kept, S.align_bytes, T>;
};
template <auto S, int N, class T, bool Constant>
struct RereadRowOf<S, N, T, Constant, false> {
  static_assert(S.cluster == 1, "a row that is not held has one block");
  static_assert(on_host || S.rows == 1 || S.threads <= team_lanes,
                "a row has its block, or meets by shuffles");
  using Type = StreamedRow<N, S.threads, S.align_bytes, Constant, T>;
};
template <auto S, int N, class T, bool Constant = true>
using RereadRow = typename RereadRowOf<S, N, T, Constant>::Type;

// The largest element of each of two rows, in one reading where they are held.
template <class Row, class Other, class A = typename Row::A>
LIGER_DEVICE Two<A> largest_of_two(const Row& x, const Other& t) {
  if constexpr (on_host) return {x.largest(), t.largest()};
  return x.template combined<Two<A>>(
      [](int, const Pack<A>& a, const Pack<A>& b) {
        return Two<A>{combined(a, Larger{}), combined(b, Larger{})};
      },
      LargerOfEach{}, Two<A>{minus_infinity<A>(), minus_infinity<A>()}, t);
}

// f(row, share of the row). Threads without a row make the last one again: the same values at the
// same place.
template <auto S, class F>
LIGER_DEVICE void each_reread_row(long long block, long long rows, F&& f) {
  if constexpr (S.held) {
    f(block / S.cluster, static_cast<int>(block % S.cluster));
  } else {
    each_row<S.threads, S.rows>(block, rows,
                                [&](long long row, int thread, bool) { f(row, thread); });
  }
}

// The same, but threads without a row do nothing: for one that the kernel overwrites.
template <auto S, class F>
LIGER_DEVICE void each_reread_row_once(long long block, long long rows, F&& f) {
  if constexpr (S.held) {
    f(block / S.cluster, static_cast<int>(block % S.cluster));
  } else {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (S.rows == 1 || active) f(row, thread);
    });
  }
}

}  // namespace liger
