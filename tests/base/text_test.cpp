#include "base/text.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace liger {
namespace {

TEST(Text, what_is_between_parts_is_not_before_or_after_them) {
  EXPECT_EQ(fmt::join(std::vector<int>{}, ", "), "");
  EXPECT_EQ(fmt::join(std::vector<std::string>{"one"}, ", "), "one");
  EXPECT_EQ(fmt::join(std::vector<std::string>{"", "b", ""}, ", "), ", b, ");
}

TEST(Text, each_part_is_written_as_the_pattern_says) {
  EXPECT_EQ(fmt::join(std::vector<unsigned char>{0, 10, 255}, "", "{:02x}"), "000aff");
}

}  // namespace
}  // namespace liger
