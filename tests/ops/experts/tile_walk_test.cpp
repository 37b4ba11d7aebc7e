// Tiles of grouped products as blocks of sm_90a take them, walked on the host.
#include "device/sm90/tile_walk.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <utility>
#include <vector>

namespace liger {
namespace {

constexpr int rows = 128;
constexpr int columns = 256;
constexpr int blocks = 6;

// How often each row and tile of columns is had; the blocks of a pair go in step, and share what
// they say.
template <bool SharesRows, class WalkOf>
std::map<std::pair<int, int>, int> had(WalkOf&& walk_of) {
  std::map<std::pair<int, int>, int> counts;
  for (int block = 0; block < blocks; block += 2) {
    auto walk = walk_of(BlockOfPair(block, blocks));
    auto other = walk_of(BlockOfPair(block + 1, blocks));
    GroupedTile tile, beside;
    while (walk.next(tile)) {
      EXPECT_TRUE(other.next(beside));
      EXPECT_EQ(tile.expert, beside.expert);
      EXPECT_EQ(tile.depth, beside.depth);
      EXPECT_EQ(tile.end_depth, beside.end_depth);
      EXPECT_EQ(tile.shares, beside.shares);
      if (tile.shares) {
        EXPECT_FALSE(tile.is_none() || beside.is_none());
        EXPECT_TRUE(SharesRows ? tile.row == beside.row : tile.column == beside.column);
      }
      for (const GroupedTile& one : {tile, beside}) {
        for (int row = one.row; row < one.row + rows && row < one.end_row; ++row)
          ++counts[{row, one.column}];
      }
    }
    EXPECT_FALSE(other.next(beside));
  }
  return counts;
}

void expect_each_once(const std::map<std::pair<int, int>, int>& counts, int all_rows,
                      int all_columns) {
  EXPECT_EQ(counts.size(), static_cast<size_t>(all_rows) * tiles_of(all_columns, columns));
  for (const auto& [place, count] : counts) {
    EXPECT_LT(place.first, all_rows);
    EXPECT_LT(place.second, all_columns);
    EXPECT_EQ(count, 1);
  }
}

TEST(TileWalk, HasEachPlaceOnceForEachTileOfColumns) {
  for (const std::vector<int>& sizes :
       {std::vector<int>{0, 1, 128, 129, 0, 700, 3}, {0, 0}, {5000}, {0, 40}}) {
    for (const int all_columns : {8, 256, 264, 768, 1536}) {
      std::vector<int> ends(sizes.size());
      std::partial_sum(sizes.begin(), sizes.end(), ends.begin());
      const int places = ends.back() + 200;  // the last are nobody's
      using Walk = PlacesWalk<rows, columns>;
      const Walk::Sizes of_walk{static_cast<int>(sizes.size()), places, all_columns, 64};
      const auto counts =
          had<false>([&](const BlockOfPair& block) { return Walk(ends.data(), of_walk, block); });
      expect_each_once(counts, places, all_columns);
    }
  }
}

TEST(TileWalk, SumsAnExpertsPlacesAndNoneForNobody) {
  const int ends[] = {0, 300};
  using Walk = PlacesWalk<rows, columns>;
  Walk walk(ends, {2, 310, 8, 64}, BlockOfPair(0, 2));
  for (GroupedTile tile; walk.next(tile);) {
    EXPECT_EQ(tile.end_depth, tile.expert < 2 ? 64 : 0);
    EXPECT_EQ(tile.row < 300, tile.expert == 1);
  }
}

template <bool SharesRows>
void expect_matrices_walked() {
  const std::vector<int> ends = {0, 70, 70, 500};
  using Walk = MatricesWalk<rows, columns, SharesRows>;
  for (const typename Walk::Sizes& of_walk : {typename Walk::Sizes{4, 8, 8},
                                              {4, 128, 256},
                                              {4, 768, 2048},
                                              {4, 1536, 264},
                                              {4, 136, 768}}) {
    const auto counts = had<SharesRows>(
        [&](const BlockOfPair& block) { return Walk(ends.data(), of_walk, block); });
    expect_each_once(counts, 4 * of_walk.rows, of_walk.columns);
  }
}

TEST(TileWalk, HasEachRowOfEachMatrixOnceForEachTileOfColumns) {
  expect_matrices_walked<false>();
  expect_matrices_walked<true>();
}

}  // namespace
}  // namespace liger
