// Order: sorting the keys of a block's threads, and finding a key among sorted ones.
#pragma once
#include "device/reduce.h"

namespace liger {

// One key of each thread; thread t gets the key of rank t. A bitonic network: its steps are fixed
// by the number of threads, a power of two. All threads of the block come here, once a launch.
template <int Threads, class Key>
LIGER_DEVICE Key sorted_across_threads(Key key) {
  LIGER_SHARED Key places[2][Threads];
  const int thread = thread_index();
  int buffer = 0;
  LIGER_UNROLL_BY(1) for (int run = 2; run <= Threads; run *= 2) {
    LIGER_UNROLL_BY(1) for (int distance = run / 2; distance > 0; distance /= 2) {
      Key other;
      if (distance < team_lanes) {
        other = shuffle_xor(key, distance);
      } else {
        places[buffer][thread] = key;
        barrier();
        other = places[buffer][thread ^ distance];
        buffer = 1 - buffer;  // what was read above is written again two barriers later
      }
      const bool ascending = (thread & run) == 0;
      const bool lower = (thread & distance) == 0;
      key = (ascending == lower) == (other < key) ? other : key;
    }
  }
  return key;
}

// The first place from `begin` on whose key is not below `key`; `end` if there is none.
template <class Key, class Place>
LIGER_DEVICE Place lower_bound(const Key* keys, Place begin, Place end, Key key) {
  while (begin < end) {
    const Place middle = begin + (end - begin) / 2;
    if (keys[middle] < key) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

}  // namespace liger
