// Ranks that share a store: what is made once, who waits for whom, and stores that misbehave.
#include "runtime/share/group.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/counters.h"
#include "base/log.h"
#include "tests/runtime/share/memory_store.h"

namespace liger {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

class GroupTest : public ::testing::Test {
 protected:
  std::unique_ptr<Group> rank(int number) { return rank_of_two(number, table_); }
  const std::shared_ptr<MemoryTable> table_ = std::make_shared<MemoryTable>();
  const Key key_ = Key().add("number", "one");
  const Entry entry_{{}, "symbol=run\n", std::string(20'000, 'x')};
  const std::unique_ptr<Group> zero_ = rank(0);
  const std::unique_ptr<Group> one_ = rank(1);
};

milliseconds since(Clock::time_point begin) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - begin);
}

TEST_F(GroupTest, a_key_is_for_one_rank_to_make_and_the_others_get_its_bytes) {
  EXPECT_FALSE(zero_->take(key_));
  EXPECT_TRUE(one_->claimed_elsewhere(key_));
  EXPECT_FALSE(zero_->claimed_elsewhere(key_));
  std::thread maker([&] {
    std::this_thread::sleep_for(milliseconds(80));
    zero_->give(key_, entry_);
  });
  const auto taken = one_->take(key_);
  maker.join();
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->payload, entry_.payload);
  EXPECT_EQ(taken->meta, entry_.meta);
  EXPECT_EQ(taken->key_bytes, key_.bytes());
  EXPECT_FALSE(one_->claimed_elsewhere(key_));
}

TEST_F(GroupTest, nobody_waits_for_a_rank_that_gave_up) {
  EXPECT_FALSE(zero_->take(key_));
  zero_->give_up(key_);
  const auto begin = Clock::now();
  EXPECT_FALSE(one_->claimed_elsewhere(key_));
  EXPECT_FALSE(one_->take(key_));
  EXPECT_LT(since(begin), milliseconds(100));
}

TEST_F(GroupTest, a_rank_that_gives_up_frees_those_who_wait) {
  EXPECT_FALSE(zero_->take(key_));
  std::thread maker([&] {
    std::this_thread::sleep_for(milliseconds(80));
    zero_->give_up(key_);
  });
  const auto begin = Clock::now();
  EXPECT_FALSE(one_->take(key_));
  EXPECT_LT(since(begin), milliseconds(500));
  maker.join();
}

TEST_F(GroupTest, the_first_proposal_stands_on_every_rank) {
  EXPECT_FALSE(zero_->agreed(key_));
  EXPECT_EQ(zero_->agree(key_, {{}, "kernel=K\npick=a\n", "1"}).meta, "kernel=K\npick=a\n");
  EXPECT_EQ(one_->agree(key_, {{}, "kernel=K\npick=b\n", "2"}).meta, "kernel=K\npick=a\n");
  EXPECT_EQ(one_->agreed(key_)->payload, "1");
}

TEST_F(GroupTest, a_pick_is_searched_by_one_rank) {
  EXPECT_FALSE(zero_->agreed_or_claim(key_));
  std::thread searcher([&] {
    std::this_thread::sleep_for(milliseconds(50));
    zero_->agree(key_, {{}, "kernel=K\npick=a\n", "1"});
  });
  EXPECT_EQ(one_->agreed_or_claim(key_)->payload, "1");
  searcher.join();
}

TEST_F(GroupTest, an_entry_that_does_not_verify_is_made_anew) {
  EXPECT_FALSE(zero_->take(key_));
  zero_->give(key_, entry_);
  table_->change([](std::string& value) {
    if (value.size() > 1000) value.back() ^= 1;
  });
  const uint64_t corrupt_before = counters().corrupt;
  EXPECT_FALSE(one_->take(key_));
  EXPECT_GT(counters().corrupt, corrupt_before);
}

TEST_F(GroupTest, a_store_that_hangs_costs_a_fifth_of_a_second_once) {
  EXPECT_FALSE(zero_->agreed(key_));
  table_->hangs = true;
  const auto begin = Clock::now();
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(zero_->take(Key().add("number", std::to_string(i))));
  EXPECT_GE(since(begin), milliseconds(190));
  EXPECT_LT(since(begin), milliseconds(400));
  EXPECT_EQ(zero_->agree(key_, entry_).payload, entry_.payload);
  table_->hangs = false;
  std::this_thread::sleep_for(milliseconds(350));
  EXPECT_FALSE(zero_->take(key_));
  zero_->give(key_, entry_);
  EXPECT_TRUE(one_->take(key_)) << "the store answers again and is used again";
}

TEST_F(GroupTest, a_store_that_is_slow_each_time_is_left_alone) {
  EXPECT_FALSE(zero_->agreed(key_));
  table_->delay_ms = 250;
  const uint64_t troubles_before = counters().group_trouble;
  const auto begin = Clock::now();
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(zero_->take(Key().add("number", std::to_string(i))));
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_GE(counters().group_trouble - troubles_before, 1u);
  EXPECT_LE(counters().group_trouble - troubles_before, 2u) << since(begin).count() << " ms";
}

TEST_F(GroupTest, a_store_that_raises_is_asked_once_and_warned_of_once) {
  const size_t warnings_before = recent_warnings().size();
  table_->raises = true;
  EXPECT_FALSE(zero_->take(key_));
  EXPECT_EQ(one_->agree(key_, entry_).payload, entry_.payload);
  table_->raises = false;
  EXPECT_FALSE(zero_->agreed(key_));
  EXPECT_LE(recent_warnings().size(), warnings_before + 1);
}

// The last one, because it uses up the patience of this process.
TEST_F(GroupTest, a_claim_that_is_never_kept_is_paid_for_once) {
  const Key other = Key().add("number", "two");
  EXPECT_FALSE(zero_->take(key_));
  EXPECT_FALSE(zero_->take(other));
  const auto begin = Clock::now();
  EXPECT_FALSE(one_->take(key_));
  EXPECT_LT(since(begin), milliseconds(11'000));
  const auto second = Clock::now();
  EXPECT_FALSE(one_->take(other));
  EXPECT_LT(since(second), milliseconds(200));
}

}  // namespace
}  // namespace liger
