// Running sums over the threads of a block.
#pragma once
#include "device/target.h"

namespace liger {

// The sum of the values of all threads before this one. All threads of the block come here, once a
// launch.
template <int Threads, class Value>
LIGER_DEVICE Value sum_of_threads_before(Value value) {
  if constexpr (Threads == 1) {
    return Value(0);
  } else {
    LIGER_SHARED Value sums[2][Threads];
    const int thread = thread_index();
    int buffer = 0;
    sums[buffer][thread] = value;
    barrier();
    Value sum = value;
    LIGER_UNROLL_BY(1) for (int distance = 1; distance < Threads; distance *= 2) {
      if (thread >= distance) sum += sums[buffer][thread - distance];
      buffer = 1 - buffer;
      sums[buffer][thread] = sum;
      barrier();
    }
    return sum - value;
  }
}

}  // namespace liger
