// Reductions whose tree is fixed by the row alone. Whatever number of threads the tuner picks, the
// same elements meet in the same order, so the bits are the same.
#pragma once
#include "device/pack.h"

namespace liger {

struct Add {
  template <class V>
  LIGER_DEVICE V operator()(const V& a, const V& b) const {
    return a + b;
  }
};

// Two sums that travel together.
template <class A>
struct Two {
  A first{};
  A second{};
};
template <class A>
LIGER_DEVICE Two<A> operator+(const Two<A>& a, const Two<A>& b) {
  return {a.first + b.first, a.second + b.second};
}
template <class A>
LIGER_DEVICE Two<A> shuffle_xor(const Two<A>& value, int mask) {
  return {shuffle_xor(value.first, mask), shuffle_xor(value.second, mask)};
}

// values[0] becomes the combination of all, halves meeting from the highest bit of the index to the
// lowest.
template <int Count, class V, class Combine>
LIGER_DEVICE void fold(V* values, Combine combine) {
  if constexpr (Count > 1) {
    LIGER_UNROLL for (int i = 0; i < Count / 2; ++i) {
      values[i] = combine(values[i], values[i + Count / 2]);
    }
    fold<Count / 2>(values, combine);
  }
}

// A place in shared memory, which cannot have constructors.
template <class V>
struct alignas(V) Place {
  unsigned char bytes[sizeof(V)];
  LIGER_DEVICE void put(const V& value) { copy_bytes(bytes, &value, sizeof(V)); }
  LIGER_DEVICE V get() const {
    V value;
    copy_bytes(&value, bytes, sizeof(V));
    return value;
  }
};

// Combines one value of each of a row's `Threads` threads, from the highest bit of the thread index
// to the lowest; every thread gets the result. `Rows` groups of threads share the block. All
// threads of the block must come here.
template <int Threads, int Rows, class V, class Combine>
LIGER_DEVICE V across_threads(V value, Combine combine) {
  if constexpr (Threads > warp_threads) {
    constexpr int warps = Threads / warp_threads;
    LIGER_SHARED Place<V> values[Threads * Rows];
    barrier();  // the last use of `values` is over
    values[thread_index()].put(value);
    barrier();
    const int group = thread_index() / Threads * Threads;
    const int lane = thread_index() % warp_threads;
    V of_warp[warps];
    LIGER_UNROLL for (int w = 0; w < warps; ++w) of_warp[w] =
        values[group + w * warp_threads + lane].get();
    fold<warps>(of_warp, combine);
    value = of_warp[0];
  }
  constexpr int lanes = Threads < warp_threads ? Threads : warp_threads;
  LIGER_UNROLL for (int mask = lanes / 2; mask > 0; mask /= 2) {
    value = combine(value, shuffle_xor(value, mask));
  }
  return value;
}

}  // namespace liger
