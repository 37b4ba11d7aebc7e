// Every row that is said to fit on the chip does, with room for a second one.
#include "ops/resident_rows.h"

#include <gtest/gtest.h>

namespace liger {
namespace {

ResidentRows on_hopper(int64_t size, bool shifted = false, int64_t element_bytes = 2) {
  return {.place = {Backend::cuda, 0, 132, 90},
          .size = size,
          .element_bytes = element_bytes,
          .shifted = shifted,
          .may_keep = true};
}

int64_t cluster_of(const ResidentRows& rows) {
  const auto candidates = resident_row_candidates(rows);
  return candidates.empty() ? 0 : value_of(candidates.front(), "cluster", 0);
}

TEST(ResidentRows, two_rows_share_a_multiprocessor) {
  for (int64_t size = 1; size < 1 << 20; size += size < 100 ? 1 : size / 7) {
    for (const int64_t bytes : {2, 4}) {
      const ResidentRows rows = on_hopper(size, size % 2 == 1, bytes);
      for (const Knobs& knobs : resident_row_candidates(rows)) {
        const int64_t cluster = value_of(knobs, "cluster", 0);
        EXPECT_LE(2 * resident_row_shared_bytes(rows, knobs), 227 << 10) << size;
        EXPECT_TRUE(cluster == 1 || cluster == 2 || cluster == 4 || cluster == 8) << size;
      }
    }
  }
}

// Of a device with little shared memory, rows of few lanes do not fit into one block either.
TEST(ResidentRows, no_row_is_dealt_to_a_cluster_of_no_blocks) {
  for (const int capability : {80, 86, 90, 100, 120, 0}) {
    for (int64_t size = 2048; size < 70000; size += 56) {
      for (const int64_t bytes : {2, 4}) {
        ResidentRows rows = on_hopper(size, false, bytes);
        rows.place.capability = capability;
        for (const Knobs& knobs : resident_row_candidates(rows)) {
          EXPECT_GE(value_of(knobs, "cluster", 0), 1) << size;
          EXPECT_GE(value_of(knobs, "threads", 0), 128) << size;
        }
      }
    }
  }
}

TEST(ResidentRows, what_is_in_registers_and_in_shared_memory_is_the_row) {
  for (const int64_t size : {2048, 32000, 50257, 128256, 151936, 151937, 300000}) {
    const ResidentRows rows = on_hopper(size, size % 8 != 0);
    const auto candidates = resident_row_candidates(rows);
    ASSERT_FALSE(candidates.empty()) << size;
    for (const Knobs& knobs : candidates) {
      const int64_t threads = value_of(knobs, "threads", 0);
      const int64_t kept = value_of(knobs, "kept", 0) * threads * 16;
      const int64_t held =
          value_of(knobs, "cluster", 0) * (kept + resident_row_shared_bytes(rows, knobs));
      EXPECT_GE(held, size * 2) << size;
      EXPECT_LE(held, size * 2 + 16 * 8 * threads * 2) << size;
    }
  }
}

TEST(ResidentRows, a_short_row_may_lie_in_registers_alone) {
  const auto kept_whole = [](const ResidentRows& rows) {
    for (const Knobs& knobs : resident_row_candidates(rows)) {
      if (value_of(knobs, "kept", 0) > 0 && resident_row_shared_bytes(rows, knobs) == 0)
        return true;
    }
    return false;
  };
  for (const int64_t size : {2048, 3072, 4096, 8192}) EXPECT_TRUE(kept_whole(on_hopper(size)));
  for (const int64_t size : {2056, 16384, 32768}) EXPECT_FALSE(kept_whole(on_hopper(size))) << size;
  ResidentRows two = on_hopper(8192);
  two.arrays = 2;  // twice the registers
  EXPECT_FALSE(kept_whole(two));
  EXPECT_TRUE(kept_whole(on_hopper(2048, false, 4)));
  EXPECT_FALSE(kept_whole(on_hopper(8192, false, 4)));
  ResidentRows elsewhere = on_hopper(2048);
  elsewhere.place.capability = 80;
  EXPECT_FALSE(kept_whole(elsewhere));
  ResidentRows none_to_spare = on_hopper(2048);
  none_to_spare.may_keep = false;
  EXPECT_FALSE(kept_whole(none_to_spare));
}

TEST(ResidentRows, longer_rows_take_clusters_where_there_are_any) {
  EXPECT_EQ(cluster_of(on_hopper(32000)), 1);
  EXPECT_EQ(cluster_of(on_hopper(50257, true)), 1);
  EXPECT_EQ(cluster_of(on_hopper(128256)), 8);
  EXPECT_EQ(cluster_of(on_hopper(10000000)), 0);
  EXPECT_EQ(cluster_of(on_hopper(1000)), 0);
  ResidentRows elsewhere = on_hopper(128256);
  elsewhere.place.capability = 80;
  EXPECT_EQ(cluster_of(elsewhere), 0);
  elsewhere.size = 32000;
  EXPECT_EQ(cluster_of(elsewhere), 1);
}

TEST(ResidentRows, rows_that_start_anywhere_keep_nothing_in_registers) {
  for (const Knobs& knobs : resident_row_candidates(on_hopper(128256, true)))
    EXPECT_EQ(value_of(knobs, "kept", -1), 0);
}

}  // namespace
}  // namespace liger
