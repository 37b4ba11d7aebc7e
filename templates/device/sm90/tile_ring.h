// Stages of a tile product in shared memory: slices of the depth arrive in a ring of them, filled
// by some threads and emptied by others.
#pragma once
#include "device/sm90/tma.h"

namespace liger {

struct TileShape {
  int rows;
  int columns;
  int depth;   // of one stage
  int stages;  // that are on their way at once
};

#if defined(LIGER_TMA)

// A place in the ring of stages.
template <int Stages>
struct PipelineState {
  int stage = 0;
  int parity = 0;
  LIGER_DEVICE void next() {
    if (++stage == Stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Behind the stages lie buffers for results, then the barriers.
template <TileShape Shape, int BufferBytes>
struct TileRing {
  static constexpr int a_bytes = Shape.rows * Shape.depth * 2;
  static constexpr int b_bytes = Shape.columns * Shape.depth * 2;
  static constexpr int stage_bytes = a_bytes + b_bytes;

  SharedAddress first;

  static LIGER_DEVICE TileRing of_launch() {
    return {(shared_address(shared_of_launch()) + 1023) & ~1023u};
  }
  LIGER_DEVICE SharedAddress a(int stage) const { return first + stage * stage_bytes; }
  LIGER_DEVICE SharedAddress b(int stage) const { return a(stage) + a_bytes; }
  LIGER_DEVICE SharedAddress buffers() const { return first + Shape.stages * stage_bytes; }
  LIGER_DEVICE Mbarrier filled(int stage) const { return {buffers() + BufferBytes + stage * 8}; }
  LIGER_DEVICE Mbarrier emptied(int stage) const {
    return {filled(stage).address + Shape.stages * 8};
  }
  // By one thread, before a barrier of all.
  LIGER_DEVICE void make(int fill_arrivals, int empty_arrivals) const {
    for (int stage = 0; stage < Shape.stages; ++stage) {
      filled(stage).make(fill_arrivals);
      emptied(stage).make(empty_arrivals);
    }
    fence_mbarrier_init();
  }
};

#endif

}  // namespace liger
