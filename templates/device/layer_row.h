// What layer norms share: the mean and the scale of a row, the weight and the bias. Where a row's
// elements come from and where they go is the kernel's.
#pragma once
#include "device/row.h"

namespace liger {

// What a row is normalised by. The mean is in two parts: far from zero its rounding leaves as much
// as the deviations' last digits.
template <class A>
struct LayerStatistics {
  A rounded_mean;
  A rest;
  A rstd;

  LIGER_DEVICE A mean() const { return rounded_mean + rest; }
  LIGER_DEVICE Pack<A> normalised(const Pack<A>& values) const {
    const auto deviations = values + (-rounded_mean);
    // The host waits for arithmetic.
    if constexpr (on_host) return fused(deviations, filled(rstd), filled(-rest * rstd));
    return (deviations + (-rest)) * rstd;
  }
};

template <class A>
struct Deviations {
  A mean;
  A variance;  // about that mean
};

// Of the elements at(slot, pack) from m.
template <class Row, int N, class A, class At>
LIGER_DEVICE Deviations<A> deviations_from(A m, At&& at, int buffer, int thread) {
  const auto sums = Row::template sum_of_elements<Two<A>>(buffer, thread, [&](int slot, int pack) {
    const auto d = without_missing<N>(pack, at(slot, pack) + (-m));
    return liger::both(part_of_sum(d), part_of_sum(d * d));
  });
  const A rest = sums.first * A(1.0 / N);
  return {rest, sums.second * A(1.0 / N) - rest * rest};
}

// Of the row whose elements first(slot, pack) gives, and then again(slot, pack); the variance is
// that of the deviations from the mean. The host waits for the row rather than for arithmetic, so
// it takes deviations from a few elements' mean while it reads; where that turns out to be further
// from the row's than its elements are, digits are lost and it goes on as a GPU.
template <class Row, int N, class A, class First, class Again>
LIGER_DEVICE LayerStatistics<A> layer_statistics(First&& first, Again&& again, int thread,
                                                 double eps) {
  A m;
  if constexpr (on_host) {
    const A near = total(first(0, 0)) * A(1.0 / (N < pack_size ? N : pack_size));
    const auto from_near = deviations_from<Row, N, A>(near, first, 0, thread);
    m = near + from_near.mean;
    if (from_near.mean * from_near.mean <= from_near.variance)
      return {m, (near - m) + from_near.mean, reciprocal_root(from_near.variance + A(eps))};
  } else {
    m = Row::template sum_of_elements<A>(0, thread, first) * A(1.0 / N);
  }
  const auto of_row = deviations_from<Row, N, A>(m, again, 1, thread);
  return {m, of_row.mean, reciprocal_root(of_row.variance + A(eps))};
}

// Of the row whose elements values.at(slot, pack) gives.
template <class Row, int N, class A, class Share>
LIGER_DEVICE LayerStatistics<A> layer_statistics(const Share& values, int thread, double eps) {
  const auto at = [&](int slot, int pack) { return values.at(slot, pack); };
  return layer_statistics<Row, N, A>(at, at, thread, eps);
}

// values * weight + bias, as far as there are such.
template <int N, int AlignBytes, bool HasWeight, bool HasBias, class A, class W, class B>
LIGER_DEVICE Pack<A> affine(Pack<A> values, const W* weight, const B* bias, int pack) {
  if constexpr (on_host && HasWeight && HasBias) {
    return fused(values, load_pack<N, AlignBytes>(weight, pack),
                 load_pack<N, AlignBytes>(bias, pack));
  }
  if constexpr (HasWeight) values = values * load_pack<N, AlignBytes>(weight, pack);
  if constexpr (HasBias) values = values + load_pack<N, AlignBytes>(bias, pack);
  return values;
}

}  // namespace liger
