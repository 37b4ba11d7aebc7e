// The tiles of products of rows that are grouped by expert, in the order in which persistent pairs
// of blocks take them: expert by expert, tiles of the same columns one after another, so that those
// at work at once share what they read. The blocks of a pair have two tiles side by side, and one
// operand in common; where an expert has an odd number of tiles that way, its last line is shared
// out the other way, with nothing in common.
#pragma once
#include "device/target.h"

namespace liger {

struct GroupedTile {
  int expert;   // as many as there are: nobody's
  int row;      // of the result
  int end_row;  // `row` or less: this block has none
  int column;
  int depth;      // what is summed
  int end_depth;  // `depth`: nothing
  bool shares;

  LIGER_DEVICE bool is_none() const { return row >= end_row; }
};

LIGER_DEVICE int tiles_of(int size, int tile) { return (size + tile - 1) / tile; }

// Of `lines` times `others` tiles: tiles of a pair are of two lines, if they share.
struct TilePairs {
  int lines;
  int others;

  struct Tile {
    int line;
    int other;  // `others`: there is none
    bool shares;
  };

  LIGER_DEVICE int count() const { return lines / 2 * others + lines % 2 * tiles_of(others, 2); }
  LIGER_DEVICE Tile at(int pair, int rank) const {
    const int sharing = lines / 2 * others;
    if (pair >= sharing) return {lines - 1, 2 * (pair - sharing) + rank, false};
    return {2 * (pair % (lines / 2)) + rank, pair / (lines / 2), true};
  }
};

// A block of a grid of pairs.
struct BlockOfPair {
  int rank;
  int pair;
  int pairs;

  LIGER_DEVICE BlockOfPair(long long block, long long blocks)
      : rank(static_cast<int>(block % 2)),
        pair(static_cast<int>(block / 2)),
        pairs(static_cast<int>(blocks / 2)) {}
};

// Rows are places, cut where an expert ends; those of nobody come last, and have no depth. A pair
// shares the columns of its tiles.
template <int Rows, int Columns>
class PlacesWalk {
 public:
  struct Sizes {
    int num_experts;
    int places;
    int columns;
    int depth;
  };

  LIGER_DEVICE PlacesWalk(const int* ends, const Sizes& sizes, const BlockOfPair& block)
      : ends_(ends), sizes_(sizes), block_(block), next_(block.pair) {}

  LIGER_DEVICE bool next(GroupedTile& tile) {
    while (next_ >= end_) {
      if (expert_ == sizes_.num_experts) return false;
      ++expert_;
      first_ = end_;
      first_place_ = end_place_;
      end_place_ = expert_ < sizes_.num_experts ? ends_[expert_] : sizes_.places;
      end_ += pairs().count();
    }
    const TilePairs of_expert = pairs();
    const TilePairs::Tile at = of_expert.at(next_ - first_, block_.rank);
    next_ += block_.pairs;
    tile.expert = expert_;
    tile.row = first_place_ + at.line * Rows;
    tile.end_row = at.other < of_expert.others ? end_place_ : tile.row;
    tile.column = at.other * Columns;
    tile.depth = 0;
    tile.end_depth = expert_ < sizes_.num_experts ? sizes_.depth : 0;
    tile.shares = at.shares;
    return true;
  }

 private:
  LIGER_DEVICE TilePairs pairs() const {
    return {tiles_of(end_place_ - first_place_, Rows), tiles_of(sizes_.columns, Columns)};
  }

  const int* ends_;
  Sizes sizes_;
  BlockOfPair block_;
  int next_;
  int expert_ = -1;
  int first_ = 0;  // number of the expert's first pair
  int end_ = 0;    // of the next one's
  int first_place_ = 0;
  int end_place_ = 0;
};

// Rows are those of a matrix for each expert, one below the other; places are the depth. A pair
// shares the columns of its tiles, or with `SharesRows` the rows.
template <int Rows, int Columns, bool SharesRows>
class MatricesWalk {
 public:
  struct Sizes {
    int num_experts;
    int rows;  // of one matrix
    int columns;
  };

  LIGER_DEVICE MatricesWalk(const int* ends, const Sizes& sizes, const BlockOfPair& block)
      : ends_(ends), sizes_(sizes), block_(block), next_(block.pair) {}

  LIGER_DEVICE bool next(GroupedTile& tile) {
    const int down = tiles_of(sizes_.rows, Rows);
    const int across = tiles_of(sizes_.columns, Columns);
    const TilePairs of_expert{SharesRows ? across : down, SharesRows ? down : across};
    const int expert = next_ / of_expert.count();
    if (expert >= sizes_.num_experts) return false;
    const TilePairs::Tile at = of_expert.at(next_ % of_expert.count(), block_.rank);
    next_ += block_.pairs;
    tile.expert = expert;
    tile.row = expert * sizes_.rows + (SharesRows ? at.other : at.line) * Rows;
    tile.end_row = at.other < of_expert.others ? (expert + 1) * sizes_.rows : tile.row;
    tile.column = (SharesRows ? at.line : at.other) * Columns;
    tile.depth = expert == 0 ? 0 : ends_[expert - 1];
    tile.end_depth = ends_[expert];
    tile.shares = at.shares;
    return true;
  }

 private:
  const int* ends_;
  Sizes sizes_;
  BlockOfPair block_;
  int next_;
};

}  // namespace liger
