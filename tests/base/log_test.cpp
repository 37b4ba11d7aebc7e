#include "base/log.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/counters.h"
#include "base/text.h"

namespace liger {
namespace {

TEST(Log, warning_is_printed_once_for_each_topic) {
  testing::internal::CaptureStderr();
  warn_once("log test", "first");
  warn_once("log test", "second");
  warn_once("log test, other topic", "third");
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "liger_jit warning: first\nliger_jit warning: third\n");
}

TEST(Log, only_the_latest_warnings_are_kept) {
  testing::internal::CaptureStderr();
  for (int i = 0; i < 100; ++i) {
    warn_once(fmt::format("log test {}", i), fmt::format("message {}", i));
  }
  testing::internal::GetCapturedStderr();
  const std::vector<std::string> kept = recent_warnings();
  EXPECT_EQ(kept.size(), 64u);
  EXPECT_EQ(kept.back(), "message 99");
}

TEST(Counters, are_listed_by_name) {
  const auto before = counter_values();
  ++counters().tuned;
  const auto after = counter_values();
  ASSERT_EQ(before.size(), after.size());
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(after[i].second - before[i].second, before[i].first == "tuned" ? 1u : 0u);
  }
}

TEST(Text, lower_touches_only_ascii_letters) { EXPECT_EQ(lower("SM_90a Ä"), "sm_90a Ä"); }

TEST(Text, replace_all_does_not_look_into_what_it_wrote) {
  EXPECT_EQ(replace_all("a.b.c", ".", ".."), "a..b..c");
  EXPECT_EQ(replace_all("abc", "", "x"), "abc");
  EXPECT_EQ(replace_all("aaa", "a", ""), "");
}

}  // namespace
}  // namespace liger
