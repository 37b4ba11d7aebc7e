// How far a logit is below the largest of its row, with softcap and temperature.
#pragma once
#include "device/loss_gradient.h"

namespace liger {

// d = (cap(x) - max) / temperature; `divisor` as below.
template <bool Exact, bool Softcap, bool Tempered, class A>
LIGER_DEVICE A distance_of_logit(A x, A max, A divisor, double softcap) {
  const A d = capped<Exact, Softcap>(x, softcap) - max;
  if constexpr (!Tempered) return d;
  if constexpr (!Exact) return d * divisor;
  const A scaled = quotient<true>(d, divisor);
  // A GPU refines its quotient, which makes a number of none where that is infinite.
  return scaled == scaled || d != d ? scaled : minus_infinity<A>();
}
// The temperature for exact types, which divide by it, and its reciprocal for others.
template <bool Exact, class A>
LIGER_DEVICE A divisor_of_distances(double temperature) {
  return A(Exact ? temperature : 1.0 / temperature);
}

// What makes p of a row of logits again: p = exp(d) / sum with d = (cap(x) - max) / temperature.
// Distances, so that what rows have in common costs no digits.
template <class A>
struct LogProbStatistics {
  A max;   // of cap(x); 0 where all is -inf
  A sum;   // of exp(d)
  A mean;  // of d under p, where the entropy is wanted
};

}  // namespace liger
