// Products of rows that are grouped by expert by the matrix units of sm_90a: what
// experts/grouped_product.h says, for two-byte elements and rows of whole 16 bytes. Each sum runs
// over its depth in order, so the bits are those of any run.
#pragma once
#include "experts/tile_pipeline.h"

namespace liger {

struct GroupedTilesSpec {
  Dtype x;
  bool gathers;
  bool turned;  // the weight of an expert is [in, out], not [out, in]
  TileShape tile;
};

template <GroupedTilesSpec S>
struct GroupedTileProduct {
  using T = Type<S.x>;
  static constexpr int block_threads = on_host ? 1 : 384;

  TensorMap x_map;
  TensorMap weight_map;
  TensorMap y_map;
  const T* x;
  const int* tokens;
  const int* ends;
  T* y;
  long long num_experts;
  long long places;
  long long inner;
  long long columns;
  long long x_stride;
  long long blocks;

#if defined(LIGER_TMA)
  using Pipeline = TilePipeline<T, S.tile, false, S.turned, S.gathers>;
  using Walk = PlacesWalk<S.tile.rows, S.tile.columns>;

  LIGER_DEVICE void operator()(long long block) const {
    const typename Walk::Sizes sizes{static_cast<int>(num_experts), static_cast<int>(places),
                                     static_cast<int>(columns), static_cast<int>(inner)};
    Pipeline::run(Walk(ends, sizes, block, blocks), Load{*this},
                  TileOutput<T>{&y_map, y, sizes.columns});
  }

 private:
  static constexpr int a_blocks = S.tile.rows / block_side;
  static constexpr int b_blocks = S.tile.columns / block_side;

  struct Load {
    // Where the rows of a thread begin, in words of 16 bytes; nowhere past the expert's last.
    struct Rows {
      static constexpr unsigned int nowhere = 0xffffffffu;
      unsigned int first[S.gathers ? a_blocks * LaneOfBlock::rows : 1] = {};
    };

    const GroupedTileProduct& of;

    LIGER_DEVICE Rows operator()(const GroupedTile& tile) const {
      Rows rows;
      if constexpr (S.gathers) {
        const LaneOfBlock lane;
        const auto words_apart = static_cast<unsigned int>(of.x_stride / 8);
        LIGER_UNROLL for (int i = 0; i < a_blocks * LaneOfBlock::rows; ++i) {
          const int place = tile.row + lane.row + i * LaneOfBlock::rows_apart;
          rows.first[i] = place < tile.end_row && tile.depth < tile.end_depth
                              ? of.tokens[place] * words_apart
                              : Rows::nowhere;
        }
      }
      return rows;
    }

    LIGER_DEVICE void operator()(const GroupedTile& tile, const Rows& rows, int depth,
                                 const TileStage& stage) const {
      if (thread_index() == 0) {
        stage.filled.arrive_and_expect((S.gathers ? b_blocks : a_blocks + b_blocks) * block_bytes);
        LIGER_UNROLL for (int i = 0; i < b_blocks; ++i) {
          const int column = tile.column + i * block_side;
          load_tile(stage.b + i * block_bytes, of.weight_map, S.turned ? column : depth,
                    S.turned ? depth : column, tile.expert, stage.filled);
        }
        LIGER_UNROLL for (int i = 0; i < a_blocks && !S.gathers; ++i) {
          load_tile<1>(stage.a + i * block_bytes, of.x_map, depth, tile.row + i * block_side,
                       stage.filled);
        }
      }
      if constexpr (S.gathers) {
        const LaneOfBlock lane;
        const int column = depth + lane.column;
        LIGER_UNROLL for (int i = 0; i < a_blocks * LaneOfBlock::rows; ++i) {
          const bool is_there = rows.first[i] != Rows::nowhere && column < of.inner;
          const T* const from = of.x + (is_there ? rows.first[i] * 8ll + column : 0);
          copy_16_bytes(stage.a + lane.at(i), from, is_there);
        }
        stage.filled.arrive_with_copies();
      }
    }
  };
#endif
};

struct GroupedTileGradientSpec {
  Dtype x;
  bool gathers_left;
  bool gathers_right;
  TileShape tile;
};

template <GroupedTileGradientSpec S>
struct GroupedTileGradient {
  using T = Type<S.x>;
  static constexpr int block_threads = on_host ? 1 : 384;

  TensorMap left_map;
  TensorMap right_map;
  TensorMap y_map;
  const T* left;
  const T* right;
  const int* tokens;
  const int* ends;
  T* y;
  long long num_experts;
  long long rows;     // columns of left
  long long columns;  // of right
  long long left_stride;
  long long right_stride;
  long long blocks;

#if defined(LIGER_TMA)
  using Pipeline = TilePipeline<T, S.tile, true, true, true>;
  using Walk = MatricesWalk<S.tile.rows, S.tile.columns>;

  LIGER_DEVICE void operator()(long long block) const {
    const typename Walk::Sizes sizes{static_cast<int>(num_experts), static_cast<int>(rows),
                                     static_cast<int>(columns)};
    Pipeline::run(Walk(ends, sizes, block, blocks), Load{*this},
                  TileOutput<T>{&y_map, y, sizes.columns});
  }

 private:
  struct Load {
    struct Nothing {};
    // Columns of one operand, for places that are the depth.
    struct Operand {
      const TensorMap* map;
      const T* data;
      long long stride;
      int column;
      int columns;
    };

    const GroupedTileGradient& of;

    LIGER_DEVICE Nothing operator()(const GroupedTile&) const { return {}; }

    // The engine knows no expert's last place: there threads copy, and zeros take the others' part.
    LIGER_DEVICE void operator()(const GroupedTile& tile, Nothing, int depth,
                                 const TileStage& stage) const {
      const bool whole = depth + S.tile.depth <= tile.end_depth;
      if (thread_index() == 0) {
        const int bytes =
            (S.gathers_left ? 0 : S.tile.rows) + (S.gathers_right ? 0 : S.tile.columns);
        stage.filled.arrive_and_expect(whole ? bytes * S.tile.depth * 2 : 0);
      }
      const int row = tile.row - tile.expert * static_cast<int>(of.rows);
      load<S.tile.rows, S.gathers_left>(
          {&of.left_map, of.left, of.left_stride, row, static_cast<int>(of.rows)}, tile, depth,
          stage.a, stage.filled, whole);
      load<S.tile.columns, S.gathers_right>(
          {&of.right_map, of.right, of.right_stride, tile.column, static_cast<int>(of.columns)},
          tile, depth, stage.b, stage.filled, whole);
      stage.filled.arrive_with_copies();
    }

    template <int Columns, bool Gathers>
    LIGER_DEVICE void load(const Operand& from, const GroupedTile& tile, int depth,
                           SharedAddress to, Mbarrier filled, bool whole) const {
      constexpr int operand_blocks = Columns / block_side;
      if (!Gathers && whole) {
        if (thread_index() != 0) return;
        LIGER_UNROLL for (int i = 0; i < operand_blocks; ++i) {
          load_tile<1>(to + i * block_bytes, *from.map, from.column + i * block_side, depth,
                       filled);
        }
        return;
      }
      const LaneOfBlock lane;
      LIGER_UNROLL for (int j = 0; j < LaneOfBlock::rows; ++j) {
        const int place = depth + lane.row + j * LaneOfBlock::rows_apart;
        const bool is_place = place < tile.end_depth;
        const int row = Gathers && is_place ? of.tokens[place] : place;
        const T* const of_row = from.data + (is_place ? row * from.stride : 0);
        LIGER_UNROLL for (int i = 0; i < operand_blocks; ++i) {
          const int column = from.column + i * block_side + lane.column;
          const bool is_there = is_place && column < from.columns;
          copy_16_bytes(to + i * block_bytes + lane.at(j), of_row + (is_there ? column : 0),
                        is_there);
        }
      }
    }
  };
#endif
};

}  // namespace liger
