// A row that a kernel uses several times: held on the chip, or read anew each time, as the spec
// says, which has `align_bytes`, `held`, `threads`, `rows`, `cluster` and `kept`.
#pragma once
#include "device/resident_row.h"
#include "device/streamed_row.h"

namespace liger {

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
// Constant: the kernel does not overwrite it.
template <auto S, int N, class T, bool Constant = true>
using RereadRow = typename RereadRowOf<S, N, T, Constant>::Type;

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

// The same for a kernel that overwrites what it reads: no row is made again.
template <auto S, class F>
LIGER_DEVICE void each_overwritten_row(long long block, long long rows, F&& f) {
  static_assert(on_host || S.threads > team_lanes, "barriers keep a row until all have read it");
  if constexpr (S.held) {
    f(block / S.cluster, static_cast<int>(block % S.cluster));
  } else {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (S.rows == 1 || active) f(row, thread);
    });
  }
}

}  // namespace liger
