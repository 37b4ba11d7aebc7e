// A persistent block that multiplies tiles one after another by the matrix units of sm_90a. Threads
// of its first group bring slices of the depth into a ring of stages; those of two others multiply,
// each group half of the tile's rows, and write what they have while the next tile is brought. Two
// blocks are a cluster: each brings half of the operand that they have in common.
#pragma once
#include "device/sm90/tile_ring.h"
#include "device/sm90/tile_walk.h"
#include "device/sm90/wgmma.h"

namespace liger {

#if defined(LIGER_TMA)

template <class T>
struct TileOutput {
  const TensorMap* map;  // of blocks of `warp_rows` x 64
  T* data;
  int columns;
};

// Where a stage lies.
struct TileStage {
  SharedAddress a;
  SharedAddress b;
  Mbarrier filled;
};

// Of a thread that brings parts of blocks of 64 x 64: 16 bytes of each 16th row.
struct LaneOfBlock {
  static constexpr int rows_apart = 16;
  static constexpr int rows = block_side / rows_apart;  // of a block

  int row;
  int column;
  SharedAddress place;  // in the block, of the first row

  LIGER_DEVICE LaneOfBlock()
      : row(thread_index() / 8),
        column(thread_index() % 8 * 8),
        place(row * 128 + (thread_index() % 8 ^ row % 8) * 16) {}
  LIGER_DEVICE SharedAddress at(int i) const { return place + i * rows_apart * 128; }
};

// With `ByThreads` threads of the first group copy too, else one has the engine do it all.
template <class T, TileShape Shape, bool TurnedA, bool TurnedB, bool ByThreads>
class TilePipeline {
 public:
  static constexpr int group_threads = 128;
  static constexpr int groups = 2;  // that multiply
  static constexpr int block_threads = (1 + groups) * group_threads;
  static constexpr int warp_rows = 16;
  static constexpr int pair = 2;

  // load(tile) -> what it knows of a tile; load(tile, known, depth, stage) for each slice.
  template <class Walk, class Load>
  static LIGER_DEVICE void run(const Walk& walk, const Load& load, const TileOutput<T>& y) {
    const Ring ring = Ring::of_launch();
    if (thread_index() == 0) ring.make(ByThreads ? 1 + group_threads : 1, groups * pair);
    cluster_barrier<pair>();
    const int group = thread_index() / group_threads;
    if (group == 0) {
      if constexpr (ByThreads) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
      } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
      }
      if (ByThreads || thread_index() == 0) fill(ring, walk, load);
      __syncwarp();  // the barrier is for whole warps
    } else {
      if constexpr (ByThreads) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
      } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
      }
      multiply(ring, walk, group - 1, y);
    }
    cluster_barrier<pair>();  // nobody leaves while the other may still arrive here
  }

 private:
  static_assert(Shape.rows == groups * wgmma_rows && Shape.depth == block_side);
  static constexpr int parts = Shape.columns / block_side;
  static constexpr int buffer_bytes = warp_rows * block_side * 2;  // a warp's part of a tile
  static constexpr int warps = groups * group_threads / warp_threads;
  static constexpr int sums_of_thread = Shape.columns / 2;
  using Ring = TileRing<Shape, warps * 2 * buffer_bytes>;
  using Pipeline = PipelineState<Shape.stages>;
  using Sums = float[sums_of_thread];

  template <class Walk, class Load>
  static LIGER_DEVICE void fill(const Ring& ring, Walk walk, const Load& load) {
    Pipeline pipeline;
    for (GroupedTile tile; walk.next(tile);) {
      auto known = load(tile);
      LIGER_UNROLL_BY(1)
      for (int depth = tile.depth; depth < tile.end_depth; depth += Shape.depth) {
        const int stage = pipeline.stage;
        ring.emptied(stage).wait(pipeline.parity ^ 1);
        load(tile, known, depth, TileStage{ring.a(stage), ring.b(stage), ring.filled(stage)});
        pipeline.next();
      }
    }
  }

  template <class Walk>
  static LIGER_DEVICE void multiply(const Ring& ring, Walk walk, int group,
                                    const TileOutput<T>& y) {
    const int warp = thread_index() % group_threads / warp_threads;
    const SharedAddress buffers = ring.buffers() + (group * 4 + warp) * 2 * buffer_bytes;
    Pipeline pipeline;
    int use = 0;  // of the warp's two buffers
    for (GroupedTile tile; walk.next(tile);) {
      const int row = tile.row + group * wgmma_rows;
      if (row >= tile.end_row) {
        pass_by(ring, pipeline, group, tile);
      } else if (tile.depth >= tile.end_depth) {
        clear(row + warp * warp_rows, tile, y);
      } else {
        Sums sums;
        sum_products(ring, pipeline, group, tile, sums);
        store(sums, row + warp * warp_rows, tile, y, buffers, use);
      }
    }
    if (thread_index() % warp_threads == 0) wait_for_stores();
    __syncwarp();
  }

  static LIGER_DEVICE void release(const Ring& ring, int stage) {
    const int thread = thread_index() % group_threads;
    if (thread < pair) ring.emptied(stage).arrive_in(thread);
  }

  // The other group's rows are the tile's last, or the other block's. One thread waits and
  // releases: no product holds the group together, and a thread that came late would find its phase
  // passed.
  static LIGER_DEVICE void pass_by(const Ring& ring, Pipeline& pipeline, int group,
                                   const GroupedTile& tile) {
    const bool leads = thread_index() % group_threads == 0;
    for (int depth = tile.depth; depth < tile.end_depth; depth += Shape.depth) {
      if (leads) {
        ring.filled(pipeline.stage).wait(pipeline.parity);
        for (int block = 0; block < pair; ++block) ring.emptied(pipeline.stage).arrive_in(block);
      }
      pipeline.next();
    }
    __syncwarp();
    barrier_of_group(group);
  }

  static LIGER_DEVICE void barrier_of_group(int group) {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(group_threads) : "memory");
  }

  static LIGER_DEVICE void sum_products(const Ring& ring, Pipeline& pipeline, int group,
                                        const GroupedTile& tile, Sums& sums) {
    int before = -1;
    LIGER_UNROLL_BY(1)
    for (int depth = tile.depth; depth < tile.end_depth; depth += Shape.depth) {
      ring.filled(pipeline.stage).wait(pipeline.parity);
      if constexpr (ByThreads) fence_for_tma();
      const auto a = slice_at<TurnedA>(ring.a(pipeline.stage) + group * block_bytes);
      const auto b = slice_at<TurnedB>(ring.b(pipeline.stage));
      begin_multiplying();
      LIGER_UNROLL for (int i = 0; i < Shape.depth / wgmma_depth; ++i) {
        multiply_slices<T, TurnedA, TurnedB>(sums, a + i * next_slice<TurnedA>,
                                             b + i * next_slice<TurnedB>,
                                             depth > tile.depth || i > 0);
      }
      end_group_of_products();
      wait_for_products<1>();
      if (before >= 0) release(ring, before);
      before = pipeline.stage;
      pipeline.next();
    }
    wait_for_products<0>();
    release(ring, before);
  }

  // Rows of a warp of which nothing is summed.
  static LIGER_DEVICE void clear(int warp_row, const GroupedTile& tile, const TileOutput<T>& y) {
    const int column = tile.column + thread_index() % warp_threads * 8;
    if (column >= tile.column + Shape.columns || column >= y.columns) return;
    for (int row = warp_row; row < warp_row + warp_rows && row < tile.end_row; ++row) {
      T* const to = y.data + static_cast<long long>(row) * y.columns + column;
      *reinterpret_cast<uint4*>(to) = uint4{0, 0, 0, 0};
    }
  }

  // Rows of a warp by the engine, unless some are no more the expert's.
  static LIGER_DEVICE void store(const Sums& sums, int warp_row, const GroupedTile& tile,
                                 const TileOutput<T>& y, SharedAddress buffers, int& use) {
    if (warp_row >= tile.end_row) return;
    const int lane = thread_index() % warp_threads;
    const bool whole = warp_row + warp_rows <= tile.end_row;
    LIGER_UNROLL for (int i = 0; i < parts; ++i) {
      const int column = tile.column + i * block_side;
      if (column >= y.columns) break;
      const SharedAddress buffer = buffers + use * buffer_bytes;
      use ^= 1;
      if (lane == 0) {
        if (whole) {
          wait_until_stores_read<1>();
        } else {
          wait_until_stores_read<0>();
        }
      }
      __syncwarp();
      put_part(sums, i * 32, buffer, lane);
      if (whole) {
        fence_for_tma();
        __syncwarp();
        if (lane == 0) store_tile(*y.map, buffer, column, warp_row);
      } else {
        __syncwarp();
        store_rows(buffer, warp_row, tile.end_row, column, y, lane);
      }
    }
  }

  // sums[4 g + 2 half + i] is that of row lane / 4 + 8 half, column 8 g + lane % 4 * 2 + i.
  static LIGER_DEVICE void put_part(const Sums& sums, int first, SharedAddress buffer, int lane) {
    const int block = lane / 8;
    const int row = lane % 8 + block % 2 * 8;
    LIGER_UNROLL for (int g = 0; g < block_side / 8; g += 2) {
      unsigned int words[4];
      LIGER_UNROLL for (int i = 0; i < 4; ++i) {
        const int at = first + g * 4 + i * 2;
        words[i] = narrow_two<T>(sums[at], sums[at + 1]);
      }
      const int sixteen_bytes = (g + block / 2) ^ (row % 8);  // the engine's swizzle
      store_blocks(buffer + row * (block_side * 2) + sixteen_bytes * 16, words);
    }
  }

  static LIGER_DEVICE void store_rows(SharedAddress buffer, int warp_row, int end_row, int column,
                                      const TileOutput<T>& y, int lane) {
    const int sixteen_bytes = lane % 8;
    LIGER_UNROLL for (int row = lane / 8; row < warp_rows; row += 4) {
      if (warp_row + row >= end_row || column + sixteen_bytes * 8 >= y.columns) continue;
      const uint4 words =
          shared_words(buffer + row * (block_side * 2) + (sixteen_bytes ^ row % 8) * 16);
      T* const to = y.data + static_cast<long long>(warp_row + row) * y.columns + column;
      *reinterpret_cast<uint4*>(to + sixteen_bytes * 8) = words;
    }
  }

  static LIGER_DEVICE uint4 shared_words(SharedAddress from) {
    uint4 words;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "r"(from)
                 : "memory");
    return words;
  }
};

#endif

}  // namespace liger
