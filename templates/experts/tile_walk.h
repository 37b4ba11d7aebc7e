// The tiles of products of rows that are grouped by expert, in the order in which persistent blocks
// take them: expert by expert, tiles of the same columns one after another, so that those at work
// at once share what they read.
#pragma once
#include "device/target.h"

namespace liger {

struct GroupedTile {
  int expert;  // as many as there are: nobody's
  int row;     // of the result
  int end_row;
  int column;
  int depth;      // what is summed
  int end_depth;  // `depth`: nothing
};

LIGER_DEVICE int tiles_of(int size, int tile) { return (size + tile - 1) / tile; }

// Rows are places, cut where an expert ends; those of nobody come last, and have no depth.
template <int Rows, int Columns>
class PlacesWalk {
 public:
  struct Sizes {
    int num_experts;
    int places;
    int columns;
    int depth;
  };

  LIGER_DEVICE PlacesWalk(const int* ends, const Sizes& sizes, long long block, long long blocks)
      : ends_(ends),
        sizes_(sizes),
        across_(tiles_of(sizes.columns, Columns)),
        next_(static_cast<int>(block)),
        blocks_(static_cast<int>(blocks)) {}

  LIGER_DEVICE bool next(GroupedTile& tile) {
    while (next_ >= end_) {
      if (expert_ == sizes_.num_experts) return false;
      ++expert_;
      first_ = end_;
      first_place_ = end_place_;
      end_place_ = expert_ < sizes_.num_experts ? ends_[expert_] : sizes_.places;
      end_ += tiles_of(end_place_ - first_place_, Rows) * across_;
    }
    const int down = tiles_of(end_place_ - first_place_, Rows);
    const int number = next_ - first_;
    next_ += blocks_;
    tile = {expert_,    first_place_ + number % down * Rows,
            end_place_, number / down * Columns,
            0,          expert_ < sizes_.num_experts ? sizes_.depth : 0};
    return true;
  }

 private:
  const int* ends_;
  Sizes sizes_;
  int across_;
  int next_;
  int blocks_;
  int expert_ = -1;
  int first_ = 0;  // number of the expert's first tile
  int end_ = 0;    // of the next one's
  int first_place_ = 0;
  int end_place_ = 0;
};

// Rows are those of a matrix for each expert, one below the other; places are the depth.
template <int Rows, int Columns>
class MatricesWalk {
 public:
  struct Sizes {
    int num_experts;
    int rows;  // of one matrix
    int columns;
  };

  LIGER_DEVICE MatricesWalk(const int* ends, const Sizes& sizes, long long block, long long blocks)
      : ends_(ends),
        sizes_(sizes),
        next_(static_cast<int>(block)),
        blocks_(static_cast<int>(blocks)) {}

  LIGER_DEVICE bool next(GroupedTile& tile) {
    const int down = tiles_of(sizes_.rows, Rows);
    const int of_expert = down * tiles_of(sizes_.columns, Columns);
    const int expert = next_ / of_expert;
    if (expert >= sizes_.num_experts) return false;
    const int number = next_ % of_expert;
    next_ += blocks_;
    tile = {expert,
            expert * sizes_.rows + number % down * Rows,
            (expert + 1) * sizes_.rows,
            number / down * Columns,
            expert == 0 ? 0 : ends_[expert - 1],
            ends_[expert]};
    return true;
  }

 private:
  const int* ends_;
  Sizes sizes_;
  int next_;
  int blocks_;
};

}  // namespace liger
