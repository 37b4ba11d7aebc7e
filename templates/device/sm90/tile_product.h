// The product of two matrices of bfloat16, a [rows, depth] times the transpose of b [columns,
// depth], tile by tile, for a caller who makes something of each tile before it is written.
//
// On sm_90a: a cluster of two blocks has two tiles, one below the other, and shares b's part. One
// warp of a block has the engine bring slices of the depth into a ring of stages; two groups of 128
// threads multiply, each the half of its tile's rows, and each thread keeps its share of the sums
// in registers. Elsewhere a thread makes a row of the tile by plain sums.
#pragma once
#include "device/sm90/tile_ring.h"
#include "device/sm90/wgmma.h"
#include "device/softmax.h"

namespace liger {

// Exponentials of a tile are powers of two: one instruction each.
constexpr float log2_of_e = 1.44269504088896341f;
constexpr float log_of_2 = 0.693147180559945309f;

#if defined(LIGER_TMA)
constexpr bool has_tile_engine = true;
constexpr int tile_cluster = 2;
#else
constexpr bool has_tile_engine = false;
constexpr int tile_cluster = 1;
#endif

struct TileMatrices {
  const TensorMap* a_map;
  const TensorMap* b_map;
  const TensorMap* c_map;
  const bf16* a;
  const bf16* b;
  bf16* c;
  long long rows;
  long long a_stride;
  long long c_stride;
};

// Where a thread's share of a tile is.
struct TileShare {
  static constexpr int rows = has_tile_engine ? 2 : 1;
  static constexpr int columns = has_tile_engine ? 16 : 64;  // of a row in one of the tile's parts
  long long first_row;
  int tile_column;  // of tiles

  LIGER_DEVICE long long row(int i) const { return first_row + 8 * i; }
  // Of a part's columns those of this thread: value j is that of first_column() + column(j).
  LIGER_DEVICE int first_column() const { return has_tile_engine ? thread_index() % 4 * 2 : 0; }
  static LIGER_DEVICE constexpr int column(int j) {
    return has_tile_engine ? j / 2 * 8 + j % 2 : j;
  }
  // Of all threads that share a row: every one gets the combination, one of them leads.
  template <class V, class Combine>
  LIGER_DEVICE V across_row(V value, Combine combine) const {
    if constexpr (has_tile_engine) return meet_by_shuffles<4>(value, combine);
    return value;
  }
  LIGER_DEVICE bool leads() const { return !has_tile_engine || thread_index() % 4 == 0; }
};

// State state = begin(share); part(state, values) for each part of the tile, `values[row][column]`
// being what will be written, minus infinity past the last column; end(state, share).
template <TileShape Shape, int Columns, int Depth, bool Stores>
class TileProduct {
 public:
  static constexpr int block_threads = on_host ? 1 : 384;
  static constexpr int parts = 4;  // of a tile's columns
  static constexpr int tiles_across = (Columns + Shape.columns - 1) / Shape.columns;
  using Values = float[TileShare::rows][TileShare::columns];

  LIGER_DEVICE explicit TileProduct(const TileMatrices& matrices) : m_(matrices) {}

  template <class Begin, class Part, class End>
  LIGER_DEVICE void each_tile(long long block, long long blocks, Begin&& begin, Part&& part,
                              End&& end) const {
#if defined(LIGER_TMA)
    by_wgmma(block, blocks, begin, part, end);
#else
    by_sums(block, blocks, begin, part, end);
#endif
  }

 private:
  static constexpr int part_columns = Shape.columns / parts;

  // Tiles of one cluster stand below each other; clusters go down first, so that b's part is read
  // while it is in the L2 cache.
  LIGER_DEVICE int tiles_down() const {
    constexpr int of_cluster = tile_cluster * Shape.rows;
    return static_cast<int>((m_.rows + of_cluster - 1) / of_cluster);
  }

#if defined(LIGER_TMA)
  static_assert(Shape.rows == 128 && Shape.columns == 256 && Shape.depth == 64);
  static constexpr int group_threads = 128;
  static constexpr int groups = 2;  // that multiply
  static constexpr int warp_rows = 16;
  static constexpr int buffer_bytes = warp_rows * part_columns * 2;  // a warp's part of a tile
  static constexpr int steps = (Depth + Shape.depth - 1) / Shape.depth;

  using Ring = TileRing<Shape, groups * 4 * 2 * buffer_bytes>;
  using Pipeline = PipelineState<Shape.stages>;

  template <class Begin, class Part, class End>
  LIGER_DEVICE void by_wgmma(long long block, long long blocks, Begin&& begin, Part&& part,
                             End&& end) const {
    const Ring ring = Ring::of_launch();
    const int rank = static_cast<int>(block % tile_cluster);
    if (thread_index() == 0) ring.make(1, groups * tile_cluster);
    cluster_barrier<tile_cluster>();
    const int cluster = static_cast<int>(block / tile_cluster);
    const int clusters = static_cast<int>(blocks / tile_cluster);
    const int group = thread_index() / group_threads;
    if (group == 0) {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
      if (thread_index() == 0) fill(ring, cluster, clusters, rank);
      __syncwarp();  // the barrier is for whole warps
    } else {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
      multiply(ring, cluster, clusters, rank, group - 1, begin, part, end);
    }
    cluster_barrier<tile_cluster>();  // nobody leaves while the other may still arrive here
  }

  LIGER_DEVICE int first_row(int tile, int rank) const {
    return (tile % tiles_down() * tile_cluster + rank) * Shape.rows;
  }
  LIGER_DEVICE int tile_column(int tile) const { return tile / tiles_down(); }

  LIGER_DEVICE void fill(const Ring& ring, int cluster, int clusters, int rank) const {
    Pipeline pipeline;
    const int tiles = tiles_down() * tiles_across;
    for (int tile = cluster; tile < tiles; tile += clusters) {
      const int row = first_row(tile, rank);
      const int column = tile_column(tile) * Shape.columns + rank * (Shape.columns / tile_cluster);
      for (int step = 0; step < steps; ++step, pipeline.next()) {
        const Mbarrier filled = ring.filled(pipeline.stage);
        ring.emptied(pipeline.stage).wait(pipeline.parity ^ 1);
        filled.arrive_and_expect(Ring::stage_bytes);
        load_tile<1>(ring.a(pipeline.stage), *m_.a_map, step * Shape.depth, row, filled);
        load_tile<tile_cluster>(ring.b(pipeline.stage) + rank * (Ring::b_bytes / tile_cluster),
                                *m_.b_map, step * Shape.depth, column, filled);
      }
    }
  }

  template <class Begin, class Part, class End>
  LIGER_DEVICE void multiply(const Ring& ring, int cluster, int clusters, int rank, int group,
                             Begin&& begin, Part&& part, End&& end) const {
    Pipeline pipeline;
    const int warp = thread_index() % group_threads / warp_threads;
    const int lane = thread_index() % warp_threads;
    const int tiles = tiles_down() * tiles_across;
    float sums[128];
    for (int tile = cluster; tile < tiles; tile += clusters) {
      const int warp_row = first_row(tile, rank) + group * (Shape.rows / groups) + warp * warp_rows;
      const TileShare share{warp_row + lane / 4, tile_column(tile)};
      auto state = begin(share);
      sum_products(ring, pipeline, group, sums);
      const int column = share.tile_column * Shape.columns;
      if (column + Shape.columns > Columns) drop_past_the_end(sums, column + lane % 4 * 2);
      LIGER_UNROLL for (int i = 0; i < parts; ++i) {
        // Buffers of a warp of its own: no thread waits for another warp.
        const SharedAddress buffer =
            ring.buffers() + ((group * 4 + warp) * 2 + i % 2) * buffer_bytes;
        one_part(sums, i, state, part, buffer, lane);
        if constexpr (Stores) {
          if (lane == 0) store_tile(*m_.c_map, buffer, column + i * part_columns, warp_row);
        }
      }
      end(state, share);
    }
    if constexpr (Stores) {
      if (lane == 0) wait_for_stores();
    }
  }

  LIGER_DEVICE void sum_products(const Ring& ring, Pipeline& pipeline, int group,
                                 float (&sums)[128]) const {
    const auto release = [&](int stage) {
      const int thread = thread_index() % group_threads;
      if (thread < tile_cluster) ring.emptied(stage).arrive_in(thread);
    };
    int before = -1;
    LIGER_UNROLL_BY(1)
    for (int step = 0; step < steps; ++step) {
      ring.filled(pipeline.stage).wait(pipeline.parity);
      const auto a = slice_at(ring.a(pipeline.stage) + group * (Ring::a_bytes / groups));
      const auto b = slice_at(ring.b(pipeline.stage));
      begin_multiplying();
      LIGER_UNROLL for (int i = 0; i < Shape.depth / 16; ++i) {
        multiply_slices<bf16>(sums, a + i * next_slice<>, b + i * next_slice<>, step > 0 || i > 0);
      }
      end_group_of_products();
      wait_for_products<1>();
      if (before >= 0) release(before);
      before = pipeline.stage;
      pipeline.next();
    }
    wait_for_products<0>();
    release(before);
  }

  // sums[4 g + 2 row + i] is that of column 8 g + 2 (lane % 4) + i.
  static LIGER_DEVICE void drop_past_the_end(float (&sums)[128], int column) {
    LIGER_UNROLL for (int i = 0; i < 128; ++i) {
      if (column + i / 4 * 8 + i % 2 >= Columns) sums[i] = minus_infinity<float>();
    }
  }

  template <class State, class Part>
  static LIGER_DEVICE void one_part(const float (&sums)[128], int i, State& state, Part&& part,
                                    SharedAddress buffer, int lane) {
    Values values;
    LIGER_UNROLL for (int j = 0; j < 32; ++j) {
      values[j % 4 / 2][j / 4 * 2 + j % 2] = sums[i * 32 + j];
    }
    part(state, values);
    if constexpr (!Stores) return;
    if (lane == 0) wait_until_stores_read<1>();
    __syncwarp();
    const int block = lane / 8;
    const int row = lane % 8 + block % 2 * 8;
    LIGER_UNROLL for (int j = 0; j < TileShare::columns; j += 4) {
      const unsigned int words[4] = {narrow_two<bf16>(values[0][j], values[0][j + 1]),
                                     narrow_two<bf16>(values[1][j], values[1][j + 1]),
                                     narrow_two<bf16>(values[0][j + 2], values[0][j + 3]),
                                     narrow_two<bf16>(values[1][j + 2], values[1][j + 3])};
      const int sixteen_bytes = (j / 2 + block / 2) ^ (row % 8);  // the engine's swizzle
      store_blocks(buffer + row * (part_columns * 2) + sixteen_bytes * 16, words);
    }
    fence_for_tma();
    __syncwarp();
  }
#else
  template <class Begin, class Part, class End>
  LIGER_DEVICE void by_sums(long long block, long long blocks, Begin&& begin, Part&& part,
                            End&& end) const {
    const int tiles = tiles_down() * tiles_across;
    for (long long tile = block; tile < tiles; tile += blocks) {
      for (int i = thread_index(); i < Shape.rows; i += block_threads) {
        const long long row = tile % tiles_down() * Shape.rows + i;
        if (row < m_.rows) one_row({row, static_cast<int>(tile / tiles_down())}, begin, part, end);
      }
    }
  }

  template <class Begin, class Part, class End>
  LIGER_DEVICE void one_row(const TileShare& share, Begin&& begin, Part&& part, End&& end) const {
    auto state = begin(share);
    const bf16* const a = m_.a + share.first_row * m_.a_stride;
    for (int i = 0; i < parts; ++i) {
      const int first = share.tile_column * Shape.columns + i * part_columns;
      Values values;
      for (int j = 0; j < part_columns; ++j) {
        float sum = first + j < Columns ? 0.0f : minus_infinity<float>();
        for (int k = 0; k < Depth && first + j < Columns; ++k) {
          sum = fused(widen(a[k]), widen(m_.b[static_cast<long long>(first + j) * Depth + k]), sum);
        }
        values[0][j] = sum;
      }
      part(state, values);
      for (int j = 0; Stores && j < part_columns && first + j < Columns; ++j) {
        m_.c[share.first_row * m_.c_stride + first + j] = narrow<bf16>(values[0][j]);
      }
    }
    end(state, share);
  }
#endif

  const TileMatrices& m_;
};

}  // namespace liger
