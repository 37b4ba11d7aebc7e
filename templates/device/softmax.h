// The running maximum of a row and its sum of exp(x - maximum), in one reading.
#pragma once
#include "device/row.h"

namespace liger {

template <class A>
LIGER_DEVICE A minus_infinity() {
  return static_cast<A>(bits_as<float>(0xff800000u));
}

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
    // While nothing but -inf was seen, any finite reference keeps exp() away from inf - inf.
    const A reference = max == minus_infinity<A>() ? A(0) : max;
    return {max, a.sum * exponential<Exact>(a.max - reference) +
                     b.sum * exponential<Exact>(b.max - reference)};
  }
};

template <bool Exact, class A>
LIGER_DEVICE MaxAndSum<A> max_and_sum(const Pack<A>& values) {
  const A max = largest(values);
  const A reference = max == minus_infinity<A>() ? A(0) : max;
  return {max, total(map([reference](A x) { return exponential<Exact>(x - reference); }, values))};
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
