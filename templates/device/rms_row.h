// What RMS norms share: the scale of a row, the weight, and the gradient of what was normalised.
// Where a row's elements come from and where they go is the kernel's.
#pragma once
#include "device/row.h"

namespace liger {

// Of rows of N elements of T. RoundEarly: the normalised row is rounded to T before the weight.
template <class Row, int N, int AlignBytes, bool HasWeight, bool RoundEarly, class T>
struct RmsRow {
  using A = typename ArithmeticOf<T>::Type;

  // rsqrt(mean(v^2) + eps) of the row that at(slot, pack) gives.
  template <class At>
  static LIGER_DEVICE A rstd(int thread, double eps, At&& at) {
    const A squares = Row::template sum_of_elements<A>(0, thread, [&](int slot, int pack) {
      const auto v = at(slot, pack);
      return v * v;
    });
    return reciprocal_root(squares * A(1.0 / N) + A(eps));
  }

  // As the weight meets it.
  static LIGER_DEVICE Pack<A> rounded(const Pack<A>& normalised) {
    if constexpr (RoundEarly) return rounded_to<T>(normalised);
    return normalised;
  }

  // values * (offset + weight). Constant: see load_raw.
  template <bool Constant = true, class W>
  static LIGER_DEVICE Pack<A> weighted(const Pack<A>& values, const W* weight, int pack,
                                       double offset) {
    if constexpr (HasWeight) {
      return values * (load_pack<N, AlignBytes, Constant>(weight, pack) + A(offset));
    } else {
      return values;
    }
  }

  // mean(m * xhat): what a row's gradient has along the row itself. f(slot, pack) gives m * xhat.
  template <class F>
  static LIGER_DEVICE A mean(int buffer, int thread, F&& f) {
    return Row::template sum_of_elements<A>(buffer, thread, f) * A(1.0 / N);
  }

  // The gradient of what was normalised: rstd * (m - xhat * mean(m * xhat)).
  static LIGER_DEVICE Pack<A> gradient(const Pack<A>& m, const Pack<A>& xhat, A mean, A rstd) {
    return fused(xhat, filled(-mean), m) * rstd;
  }
};

}  // namespace liger
