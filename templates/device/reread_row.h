// A row that a kernel uses several times: held on the chip, or read anew each time, as the spec
// says, which has `align_bytes`, `held`, `threads`, `rows`, `cluster` and `kept`.
#pragma once
#include "device/resident_row.h"
#include "device/streamed_row.h"

namespace liger {

template <auto S, int N, class T, bool Held = S.held>
struct RereadRowOf {
  using Type = ResidentRow<N, S.threads, S.cluster, S.kept, S.align_bytes, T>;
};
template <auto S, int N, class T>
struct RereadRowOf<S, N, T, false> {
  static_assert(S.cluster == 1, "a row that is not held has one block");
  static_assert(on_host || S.rows == 1 || S.threads <= team_lanes,
                "a row has its block, or meets by shuffles");
  using Type = StreamedRow<N, S.threads, S.align_bytes, true, T>;
};
template <auto S, int N, class T>
using RereadRow = typename RereadRowOf<S, N, T>::Type;

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

}  // namespace liger
