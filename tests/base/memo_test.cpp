// Readers and writers at once, and a bound that holds.
#include "base/memo.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace liger {
namespace {

TEST(Memo, finds_what_was_put_and_nothing_else) {
  Memo<int> memo(8);
  EXPECT_EQ(memo.find("a"), std::nullopt);
  memo.put("a", 1);
  memo.put(std::string("a\0b", 3), 2);
  EXPECT_EQ(memo.find("a"), 1);
  EXPECT_EQ(memo.find(std::string_view("a\0b", 3)), 2);
  memo.put("a", 3);
  EXPECT_EQ(memo.find("a"), 3);
}

TEST(Memo, holds_no_more_than_it_may) {
  Memo<int> memo(8);
  int held = 0;
  for (int i = 0; i < 100; ++i) memo.put(std::to_string(i), i);
  for (int i = 0; i < 100; ++i) {
    if (const auto value = memo.find(std::to_string(i))) {
      EXPECT_EQ(*value, i);
      held += 1;
    }
  }
  EXPECT_GE(held, 1);
  EXPECT_LE(held, 8);
}

TEST(Memo, many_threads_read_while_others_write) {
  Memo<int> memo(64);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 8; ++thread) {
    threads.emplace_back([&memo, thread] {
      for (int i = 0; i < 2000; ++i) {
        const int number = (i * 7 + thread) % 100;
        const auto value = memo.find(std::to_string(number));
        EXPECT_TRUE(!value || *value == number);
        if (!value) memo.put(std::to_string(number), number);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace liger
