// The maximum of a row, its sum of exp(x - maximum), and where the maximum is.
#pragma once
#include "device/row.h"

namespace liger {

template <class A>
LIGER_DEVICE A minus_infinity() {
  return static_cast<A>(bits_as<float>(0xff800000u));
}

// What exponentials refer to: while nothing but -inf was seen, any finite number keeps exp() away
// from inf - inf.
template <class A>
LIGER_DEVICE A finite(A max) {
  return max == minus_infinity<A>() ? A(0) : max;
}

// exp(x) of a score less the largest one. Not exact: results below 2^-126 are zero.
template <bool Exact>
LIGER_DEVICE double probability(double x) {
  return exponential<Exact>(x);
}
template <bool Exact>
LIGER_DEVICE float probability(float x) {
#if defined(LIGER_CUDA)
  if constexpr (!Exact) return power_of_two(x * 1.44269504088896341f);
#elif defined(LIGER_HOST)
  return Exact ? exponential_of_distance(x) : power_of_two_host<true>(x * 1.44269504088896341f);
#endif
  return exponential<Exact>(x);
}

// The larger number. On a GPU NaN counts as none, so that the order of many does not matter.
struct Larger {
  template <class A>
  LIGER_DEVICE A operator()(A a, A b) const {
#if defined(LIGER_HOST)
    return larger(a, b);
#else
    return fmaxf(a, b);
#endif
  }
};

struct LargerOfEach {
  template <class A>
  LIGER_DEVICE Two<A> operator()(const Two<A>& a, const Two<A>& b) const {
    return {Larger{}(a.first, b.first), Larger{}(a.second, b.second)};
  }
};

// The larger number, or NaN if there is one.
struct LargerOrNan {
  template <class A>
  LIGER_DEVICE A operator()(A a, A b) const {
    return (a > b) | (a != a) ? a : b;
  }
};

template <class A>
struct MaxAndSum {
  A max = minus_infinity<A>();
  A sum = 0;
};
template <class A>
LIGER_DEVICE MaxAndSum<A> shuffle_xor(const MaxAndSum<A>& value, int mask) {
  return {shuffle_xor(value.max, mask), shuffle_xor(value.sum, mask)};
}

template <bool Exact>
struct MergeMaxAndSum {
  template <class A>
  LIGER_DEVICE MaxAndSum<A> operator()(const MaxAndSum<A>& a, const MaxAndSum<A>& b) const {
    const A max = larger(a.max, b.max);
    const A reference = finite(max);
    return {max, a.sum * exponential<Exact>(a.max - reference) +
                     b.sum * exponential<Exact>(b.max - reference)};
  }
};

// The same of sums that do not refer to their maxima.
struct MaxAndSumApart {
  template <class A>
  LIGER_DEVICE MaxAndSum<A> operator()(const MaxAndSum<A>& a, const MaxAndSum<A>& b) const {
    return {Larger{}(a.max, b.max), a.sum + b.sum};
  }
};

template <bool Exact, class A>
LIGER_DEVICE MaxAndSum<A> max_and_sum(const Pack<A>& values) {
  const A max = combined(values, Larger{});
  const A reference = finite(max);
  return {max, total(map([reference](A x) { return probability<Exact>(x - reference); }, values))};
}

// The largest value and the lowest column that has it.
template <class A>
struct Best {
  A value = minus_infinity<A>();
  int column = 0x7fffffff;
};
template <class A>
LIGER_DEVICE Best<A> shuffle_xor(const Best<A>& value, int mask) {
  return {shuffle_xor(value.value, mask), shuffle_xor(value.column, mask)};
}
struct MergeBest {
  template <class A>
  LIGER_DEVICE Best<A> operator()(const Best<A>& a, const Best<A>& b) const {
    const bool second = b.value > a.value || (b.value == a.value && b.column < a.column);
    return second ? b : a;
  }
};

}  // namespace liger
