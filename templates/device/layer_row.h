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

// Of the row whose elements first(slot, pack) gives, and then again(slot, pack); the variance is
// that of the deviations.
template <class Row, int N, class A, class First, class Again>
LIGER_DEVICE LayerStatistics<A> layer_statistics(First&& first, Again&& again, int thread,
                                                 double eps) {
  const A sum = Row::template sum_of_elements<A>(0, thread, first);
  const A m = sum * A(1.0 / N);
  const auto deviations = Row::template sum_of_elements<Two<A>>(1, thread, [&](int slot, int pack) {
    const auto d = without_missing<N>(pack, again(slot, pack) + (-m));
    return liger::both(part_of_sum(d), part_of_sum(d * d));
  });
  const A rest = deviations.first * A(1.0 / N);
  const A variance = deviations.second * A(1.0 / N) - rest * rest;
  return {m, rest, reciprocal_root(variance + A(eps))};
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
