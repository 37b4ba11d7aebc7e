// How a loss behind a linear layer divides its work, for every size and wish.
#include "ops/linear_loss/division.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/parts.h"

namespace liger {
namespace {

constexpr int64_t mebibyte = int64_t{1} << 20;
const Place h100{.backend = Backend::cuda, .multiprocessors = 132, .capability = 90};
const Place a100{.backend = Backend::cuda, .multiprocessors = 108, .capability = 80};
constexpr LossTraits of_pairs{
    .plain = true, .whole_units = true, .gradient = true, .weight_gradient = true};

LinearLossSizes sizes_of(const Units& units, int64_t hidden, int64_t classes) {
  return {units.all(), hidden, classes, 2};
}
Units pairs(int64_t count, int64_t tokens) {
  return {.parts = 2, .count = count, .tokens = tokens};
}
LossDivision divided(const Place& place, const Units& units, const LossTraits& traits,
                     int64_t asked = chunk_automatic, int64_t hidden = 2048,
                     int64_t classes = 128256) {
  return divide(place, sizes_of(units, hidden, classes), units, traits, asked,
                Accumulate::automatic);
}

TEST(Division, pairs_of_a_thousand_tokens_are_chunks_of_exponentials_on_an_h100) {
  const LossDivision division = divided(h100, pairs(4, 1024), of_pairs);
  EXPECT_EQ(division.way, Way::exponentials);
  EXPECT_EQ(division.units.parts, 2);
  EXPECT_EQ(division.chunk, 1);
  EXPECT_FALSE(division.wide_sum);
  EXPECT_EQ(divided(a100, pairs(4, 1024), of_pairs).way, Way::logits);
}

TEST(Division, an_option_that_exponentials_cannot_follow_makes_logits) {
  LossTraits traits = of_pairs;
  traits.plain = false;
  EXPECT_EQ(divided(h100, pairs(4, 1024), traits).way, Way::logits);
}

TEST(Division, short_pairs_share_a_chunk) {
  const LossDivision division = divided(a100, pairs(64, 64), of_pairs);
  EXPECT_EQ(division.chunk_tokens(), 1024);
  EXPECT_EQ(division.chunk, 8);
}

TEST(Division, a_unit_too_large_for_a_chunk_takes_statistics_first) {
  const LossDivision division = divided(h100, pairs(4, 8192), of_pairs);
  EXPECT_EQ(division.way, Way::statistics_first);
  EXPECT_EQ(division.units.of_unit(), 1);
  EXPECT_EQ(division.units.count, 4 * 2 * 8192);
}

TEST(Division, few_kept_tokens_take_statistics_first_where_that_is_less_products) {
  const Units units = pairs(4, 1024);
  LossTraits traits = of_pairs;
  const auto way = [&](double kept) {
    traits.kept = static_cast<int64_t>(kept * static_cast<double>(units.all()));
    return divided(a100, units, traits).way;
  };
  traits.input_gradient = true;  // four products of the kept tokens, or three of all
  EXPECT_EQ(way(1.0), Way::logits);
  EXPECT_EQ(way(0.75), Way::logits);
  EXPECT_EQ(way(0.74), Way::statistics_first);
  EXPECT_EQ(way(0.0), Way::statistics_first);
  traits.input_gradient = false;  // three, or two
  EXPECT_EQ(way(0.74), Way::logits);
  EXPECT_EQ(way(0.66), Way::statistics_first);
  traits.whole_units = false;  // the loss leaves ignored tokens out before
  EXPECT_EQ(way(0.5), Way::logits);
}

TEST(Division, without_a_gradient_or_units_tokens_are_taken_one_by_one) {
  LossTraits traits = of_pairs;
  traits.gradient = traits.weight_gradient = false;
  EXPECT_EQ(divided(h100, pairs(4, 8192), traits).units.of_unit(), 1);
  EXPECT_EQ(divided(h100, pairs(4, 8192), traits).way, Way::exponentials);
  traits = of_pairs;
  traits.whole_units = false;
  EXPECT_EQ(divided(h100, pairs(4, 8192), traits).units.of_unit(), 1);
}

TEST(Division, tiles_of_classes_are_for_who_can_and_has_a_gradient_of_the_weight) {
  const Units tokens{.count = 16384};
  LossTraits traits{.tiles = true, .gradient = true, .weight_gradient = true};
  const auto least = [&] {
    return divided(a100, tokens, traits, chunk_least_memory, 1024, 151936).way;
  };
  ASSERT_TRUE(two_passes_of(sizes_of(tokens, 1024, 151936), chunk_least_memory));
  EXPECT_EQ(least(), Way::classes);
  traits.weight_gradient = false;
  EXPECT_EQ(least(), Way::logits);
  traits.weight_gradient = true;
  traits.tiles = false;
  EXPECT_EQ(least(), Way::logits);
}

TEST(Division, chunks_cover_the_units_and_keep_their_promise_of_memory) {
  for (const int64_t tokens : {1, 7, 512, 2048, 4096}) {
    for (const int64_t count : {0, 1, 3, 64}) {
      for (const int64_t classes : {7, 32000, 128256}) {
        for (const int64_t asked : {chunk_automatic, chunk_least_memory, int64_t{100}}) {
          const Units units = pairs(count, tokens);
          const LossDivision division = divided(a100, units, of_pairs, asked, 1024, classes);
          ASSERT_GE(division.chunk, 1);
          ASSERT_EQ(division.units.all(), units.all());
          const int64_t chunks = parts(division.units.count, division.chunk);
          ASSERT_LT(chunks * division.chunk - division.units.count, division.chunk);
          const int64_t row = classes * 2;
          ASSERT_LE(division.chunk_tokens() * row,
                    std::max({640 * mebibyte, row * 512, row * int64_t{128}}))
              << tokens << " " << count << " " << classes << " " << asked;
        }
      }
    }
  }
}

TEST(Division, more_than_eight_chunks_are_added_up_wide) {
  EXPECT_FALSE(divided(a100, pairs(8, 512), of_pairs).wide_sum);
  EXPECT_TRUE(divided(a100, pairs(64, 1024), of_pairs).wide_sum);
  EXPECT_FALSE(divided(a100, pairs(64, 1024), of_pairs, chunk_least_memory).wide_sum);
}

}  // namespace
}  // namespace liger
