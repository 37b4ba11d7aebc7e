// Products of rows that are grouped by expert by the matrix units of sm_90a: what
// experts/grouped_product.h says, for two-byte elements and rows of whole 16 bytes. Each sum runs
// over its depth in order, so the bits are those of any run.
#pragma once
#include "device/sm90/tile_pipeline.h"

namespace liger {

struct GroupedTileProductSpec {
  Dtype x;
  bool gathers;
  bool turned;  // the weight of an expert is [in, out], not [out, in]
  TileShape tile;
};

template <GroupedTileProductSpec S>
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
    const BlockOfPair of_pair(block, blocks);
    Pipeline::run(Walk(ends, sizes, of_pair), Load{*this, of_pair.rank},
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
    int rank;

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
      if (thread_index() == 0) by_engine(tile, depth, stage);
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

    LIGER_DEVICE void by_engine(const GroupedTile& tile, int depth, const TileStage& stage) const {
      const int count = S.gathers ? b_blocks : a_blocks + b_blocks;
      stage.filled.arrive_and_expect(tile.is_none() ? 0 : count * block_bytes);
      if (tile.is_none()) return;
      LIGER_UNROLL for (int i = 0; i < b_blocks / 2 && tile.shares; ++i) {
        load_weight<2>(tile, depth, stage, rank * (b_blocks / 2) + i);
      }
      LIGER_UNROLL for (int i = 0; i < b_blocks && !tile.shares; ++i) {
        load_weight<1>(tile, depth, stage, i);
      }
      LIGER_UNROLL for (int i = 0; i < a_blocks && !S.gathers; ++i) {
        load_tile<1>(stage.a + i * block_bytes, of.x_map, depth, tile.row + i * block_side,
                     stage.filled);
      }
    }

    template <int Blocks>
    LIGER_DEVICE void load_weight(const GroupedTile& tile, int depth, const TileStage& stage,
                                  int i) const {
      const int column = tile.column + i * block_side;
      load_tile<Blocks>(stage.b + i * block_bytes, of.weight_map, S.turned ? column : depth,
                        S.turned ? depth : column, tile.expert, stage.filled);
    }
  };
#endif
};

template <GroupedTileProductSpec S>
constexpr int cluster_of<GroupedTileProduct<S>> = on_host ? 1 : 2;

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
  // What is gathered nobody else can bring.
  static constexpr bool shares_left = S.gathers_right;
  using Walk = MatricesWalk<S.tile.rows, S.tile.columns, shares_left>;

  LIGER_DEVICE void operator()(long long block) const {
    const typename Walk::Sizes sizes{static_cast<int>(num_experts), static_cast<int>(rows),
                                     static_cast<int>(columns)};
    const BlockOfPair of_pair(block, blocks);
    Pipeline::run(Walk(ends, sizes, of_pair), Load{*this, of_pair.rank},
                  TileOutput<T>{&y_map, y, sizes.columns});
  }

 private:
  struct Load {
    // Columns of one operand, for places that are the depth.
    struct Operand {
      const TensorMap* map;
      const T* data;
      long long stride;
      int column;
      int columns;
    };
    // The rows of a thread in the next slice: asked for long before they are needed.
    struct Rows {
      int of[LaneOfBlock::rows];
    };

    const GroupedTileGradient& of;
    int rank;

    LIGER_DEVICE Rows operator()(const GroupedTile& tile) const {
      return rows_at(tile, tile.depth);
    }

    LIGER_DEVICE Rows rows_at(const GroupedTile& tile, int depth) const {
      Rows rows;
      const LaneOfBlock lane;
      LIGER_UNROLL for (int i = 0; i < LaneOfBlock::rows; ++i) {
        const int place = depth + lane.row + i * LaneOfBlock::rows_apart;
        rows.of[i] = place < tile.end_depth ? of.tokens[place] : 0;
      }
      return rows;
    }

    // The engine knows no expert's last place: there threads copy, and zeros take the others' part.
    LIGER_DEVICE void operator()(const GroupedTile& tile, Rows& rows, int depth,
                                 const TileStage& stage) const {
      const bool whole = depth + S.tile.depth <= tile.end_depth;
      if (thread_index() == 0) {
        const int bytes =
            ((S.gathers_left ? 0 : S.tile.rows) + (S.gathers_right ? 0 : S.tile.columns)) *
            S.tile.depth * 2;
        stage.filled.arrive_and_expect(whole && !tile.is_none() ? bytes : 0);
      }
      if (!tile.is_none()) {
        const int row = tile.row - tile.expert * static_cast<int>(of.rows);
        load<S.tile.rows, S.gathers_left>(
            {&of.left_map, of.left, of.left_stride, row, static_cast<int>(of.rows)}, tile, rows,
            depth, stage.a, stage.filled, whole, shares_left && tile.shares);
        load<S.tile.columns, S.gathers_right>(
            {&of.right_map, of.right, of.right_stride, tile.column, static_cast<int>(of.columns)},
            tile, rows, depth, stage.b, stage.filled, whole, !shares_left && tile.shares);
      }
      stage.filled.arrive_with_copies();
      if constexpr (S.gathers_left || S.gathers_right) rows = rows_at(tile, depth + S.tile.depth);
    }

    template <int Columns, bool Gathers>
    LIGER_DEVICE void load(const Operand& from, const GroupedTile& tile, const Rows& rows,
                           int depth, SharedAddress to, Mbarrier filled, bool whole,
                           bool shares) const {
      constexpr int operand_blocks = Columns / block_side;
      if (!Gathers && whole) {
        if (thread_index() != 0) return;
        constexpr int half = operand_blocks / 2;
        LIGER_UNROLL for (int i = 0; i < half && shares; ++i) {
          const int at = rank * half + i;
          load_tile<2>(to + at * block_bytes, *from.map, from.column + at * block_side, depth,
                       filled);
        }
        LIGER_UNROLL for (int i = 0; i < operand_blocks && !shares; ++i) {
          load_tile<1>(to + i * block_bytes, *from.map, from.column + i * block_side, depth,
                       filled);
        }
        return;
      }
      const LaneOfBlock lane;
      LIGER_UNROLL for (int j = 0; j < LaneOfBlock::rows; ++j) {
        const int place = depth + lane.row + j * LaneOfBlock::rows_apart;
        const bool is_place = place < tile.end_depth;
        const T* const of_row =
            from.data + (is_place ? (Gathers ? rows.of[j] : place) * from.stride : 0);
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

template <GroupedTileGradientSpec S>
constexpr int cluster_of<GroupedTileGradient<S>> = on_host ? 1 : 2;

}  // namespace liger
