// The division of a fused linear loss keeps its promises of memory for every size.
#include "ops/linear_loss/chunking_policy.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace liger {
namespace {

constexpr double mebibyte = 1 << 20;

double logits_mebibytes(const LinearLossSizes& sizes, int64_t asked = chunk_automatic) {
  return static_cast<double>(chunk_tokens_of(sizes, asked) * sizes.classes * sizes.element_bytes) /
         mebibyte;
}

TEST(ChunkingPolicy, logits_of_a_chunk_are_bounded_however_many_tokens_there_are) {
  for (const int64_t tokens : {1, 1000, 16384, 1 << 20, 1 << 26}) {
    for (const int64_t classes : {7, 32000, 128256, 262144}) {
      for (const int64_t hidden : {64, 1024, 8192}) {
        const LinearLossSizes sizes{tokens, hidden, classes, 2};
        const double weight_mebibytes = static_cast<double>(classes * hidden * 2) / mebibyte;
        EXPECT_LE(logits_mebibytes(sizes), std::max(640.0, weight_mebibytes / 2)) << tokens;
      }
    }
  }
}

TEST(ChunkingPolicy, a_step_of_a_few_thousand_tokens_is_eight_chunks) {
  EXPECT_EQ(chunk_tokens_of({8192, 1024, 151936, 2}, chunk_automatic), 1024);
  EXPECT_EQ(chunk_tokens_of({12288, 1024, 151936, 2}, chunk_automatic), 1536);
  EXPECT_EQ(chunk_tokens_of({16384, 1024, 151936, 2}, chunk_automatic), 2048);
}

TEST(ChunkingPolicy, a_wide_layer_affords_logits_of_half_its_gradient) {
  EXPECT_EQ(chunk_tokens_of({8192, 2048, 128256, 2}, chunk_automatic), 1024);
  EXPECT_EQ(chunk_tokens_of({8192, 3072, 128256, 2}, chunk_automatic), 1408);
  EXPECT_EQ(chunk_tokens_of({8192, 4096, 128256, 2}, chunk_automatic), 2048);
  EXPECT_EQ(chunk_tokens_of({8192, 8192, 128256, 2}, chunk_automatic), 2048);
}

TEST(ChunkingPolicy, a_teachers_logits_count_as_the_students_do) {
  EXPECT_EQ(chunk_tokens_of({4096, 2048, 128256, 2, 2}, chunk_automatic), 1024);
  EXPECT_EQ(chunk_tokens_of({16384, 4096, 128256, 2, 1}, chunk_automatic), 2048);
  EXPECT_EQ(chunk_tokens_of({16384, 4096, 128256, 2, 2}, chunk_automatic), 1280);
  const LinearLossSizes least{16384, 4096, 128256, 2, 2};
  EXPECT_LE(2 * chunk_tokens_of(least, chunk_least_memory) * 128256 * 2, least_memory_bytes(least));
}

TEST(ChunkingPolicy, chunks_cover_the_tokens_and_are_even) {
  for (int64_t tokens = 0; tokens < 20000; tokens += 37) {
    for (const int64_t asked : {chunk_automatic, chunk_least_memory, int64_t{100}}) {
      const int64_t chunk = chunk_tokens_of({tokens, 512, 50257, 2}, asked);
      ASSERT_GE(chunk, 1);
      ASSERT_LE(chunk, std::max<int64_t>(tokens, 1));
      if (asked > 0) continue;
      const int64_t chunks = tokens == 0 ? 0 : (tokens + chunk - 1) / chunk;
      ASSERT_LT(chunks * chunk - tokens, chunk) << tokens;
    }
  }
}

// Heads of models that are trained: tokens, hidden size, classes.
const LinearLossSizes heads[] = {
    {16384, 1024, 151936, 2},   {8192, 4096, 128256, 2},  {8192, 4096, 32000, 2},
    {8192, 2048, 128256, 2},    {4096, 1024, 151936, 2},  {16000, 1024, 151936, 2},
    {8192, 2304, 256000, 2},    {8192, 576, 49152, 2},    {2048, 4096, 128256, 2},
    {1 << 18, 1024, 151936, 2}, {16384, 1024, 151936, 4}, {1000, 32, 8191, 8},
};

int64_t bytes_of_tiles(const LinearLossSizes& sizes, const VocabularyTiles& tiles) {
  const int64_t sum_bytes = sizes.element_bytes == 2 ? 4 * sizes.hidden : 0;
  return tiles.tokens * (sum_bytes + tiles.classes * sizes.element_bytes);
}

TEST(ChunkingPolicy, least_memory_takes_the_inputs_gradient_and_a_twentieth_of_both) {
  for (const LinearLossSizes& sizes : heads) {
    const int64_t dinput = sizes.tokens * sizes.hidden * sizes.element_bytes;
    const int64_t dweight = sizes.classes * sizes.hidden * sizes.element_bytes;
    EXPECT_EQ(least_memory_bytes(sizes), dinput + (dinput + dweight) / 20);
    const int64_t row = sizes.classes * sizes.element_bytes;
    const int64_t chunk = chunk_tokens_of(sizes, chunk_least_memory);
    EXPECT_LE(chunk * row, std::max(least_memory_bytes(sizes), 16 * row)) << sizes.tokens;
    EXPECT_LE(logits_mebibytes(sizes, chunk_least_memory), logits_mebibytes(sizes));
    const auto tiles = two_passes_of(sizes, chunk_least_memory);
    if (!tiles) continue;
    EXPECT_LE(bytes_of_tiles(sizes, *tiles), least_memory_bytes(sizes));
  }
}

TEST(ChunkingPolicy, two_passes_are_taken_where_chunks_would_be_narrow) {
  const auto narrow = two_passes_of({16384, 1024, 151936, 2}, chunk_least_memory);
  ASSERT_TRUE(narrow);
  EXPECT_EQ(narrow->tokens, 4096);
  EXPECT_EQ(narrow->classes, 4096);
  EXPECT_FALSE(two_passes_of({8192, 4096, 128256, 2}, chunk_least_memory));
  EXPECT_EQ(chunk_tokens_of({8192, 4096, 128256, 2}, chunk_least_memory), 384);
  EXPECT_FALSE(two_passes_of({8192, 4096, 32000, 2}, chunk_least_memory));
  EXPECT_EQ(chunk_tokens_of({8192, 4096, 32000, 2}, chunk_least_memory), 1280);
  // Products in float32 cost more than the bytes that a fourth one saves.
  EXPECT_FALSE(two_passes_of({16384, 1024, 151936, 4}, chunk_least_memory));
}

TEST(ChunkingPolicy, two_passes_are_for_the_least_memory_alone) {
  EXPECT_FALSE(two_passes_of({16384, 1024, 151936, 2}, chunk_automatic));
  EXPECT_FALSE(two_passes_of({16384, 1024, 151936, 2}, 64));
  EXPECT_FALSE(two_passes_of({0, 1024, 151936, 2}, chunk_least_memory));
}

TEST(ChunkingPolicy, tiles_have_few_widths_and_groups_are_even) {
  for (int64_t tokens = 128; tokens <= 20000; tokens += 128) {
    const auto tiles = two_passes_of({tokens, 1024, 151936, 2}, chunk_least_memory);
    if (!tiles) continue;
    EXPECT_EQ(tiles->classes & (tiles->classes - 1), 0) << tokens;
    EXPECT_LE(tiles->tokens, tokens);
    const int64_t groups = (tokens + tiles->tokens - 1) / tiles->tokens;
    EXPECT_LE(groups, 6) << tokens;
    EXPECT_LT(groups * tiles->tokens - tokens, 16 * groups) << tokens;
  }
}

TEST(ChunkingPolicy, many_chunks_are_added_up_in_float32_unless_memory_matters_more) {
  const LinearLossSizes few{16384, 1024, 151936, 2};
  const LinearLossSizes many{1 << 18, 1024, 151936, 2};
  EXPECT_FALSE(accumulates_wide(few, chunk_automatic, Accumulate::automatic));
  EXPECT_TRUE(accumulates_wide(many, chunk_automatic, Accumulate::automatic));
  EXPECT_FALSE(accumulates_wide(many, chunk_automatic, Accumulate::weight_dtype));
  EXPECT_FALSE(accumulates_wide(many, chunk_least_memory, Accumulate::automatic));
  EXPECT_TRUE(accumulates_wide(few, chunk_automatic, Accumulate::float32));
}

}  // namespace
}  // namespace liger
