// The division of a fused linear loss keeps its promises of memory for every size.
#include "ops/chunk_law.h"

#include <gtest/gtest.h>

namespace liger {
namespace {

constexpr double mebibyte = 1 << 20;

double logits_mebibytes(const LinearLossSizes& sizes, int64_t asked = chunk_automatic) {
  return static_cast<double>(chunk_tokens_of(sizes, asked) * sizes.classes * sizes.element_bytes) /
         mebibyte;
}

TEST(ChunkLaw, logits_of_a_chunk_are_bounded_however_many_tokens_there_are) {
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

TEST(ChunkLaw, a_step_of_a_few_thousand_tokens_is_eight_chunks) {
  EXPECT_EQ(chunk_tokens_of({8192, 1024, 151936, 2}, chunk_automatic), 1024);
  EXPECT_EQ(chunk_tokens_of({12288, 1024, 151936, 2}, chunk_automatic), 1536);
  EXPECT_EQ(chunk_tokens_of({16384, 1024, 151936, 2}, chunk_automatic), 2048);
}

TEST(ChunkLaw, a_wide_layer_affords_logits_of_half_its_gradient) {
  EXPECT_EQ(chunk_tokens_of({8192, 2048, 128256, 2}, chunk_automatic), 1024);
  EXPECT_EQ(chunk_tokens_of({8192, 3072, 128256, 2}, chunk_automatic), 1408);
  EXPECT_EQ(chunk_tokens_of({8192, 4096, 128256, 2}, chunk_automatic), 2048);
  EXPECT_EQ(chunk_tokens_of({8192, 8192, 128256, 2}, chunk_automatic), 2048);
}

TEST(ChunkLaw, chunks_cover_the_tokens_and_are_even) {
  for (int64_t tokens = 0; tokens < 20000; tokens += 37) {
    for (const int64_t asked : {chunk_automatic, chunk_least_memory, int64_t{100}}) {
      const int64_t chunk = chunk_tokens_of({tokens, 512, 50257, 2}, asked);
      ASSERT_GE(chunk, tokens > 0 ? 1 : 0);
      ASSERT_LE(chunk, std::max<int64_t>(tokens, 1));
      if (asked > 0) continue;
      const int64_t chunks = tokens == 0 ? 0 : (tokens + chunk - 1) / chunk;
      ASSERT_LT(chunks * chunk - tokens, chunk) << tokens;
    }
  }
}

TEST(ChunkLaw, least_memory_keeps_logits_near_the_inputs_gradient) {
  for (const int64_t tokens : {4096, 16384, 1 << 18}) {
    const LinearLossSizes sizes{tokens, 1024, 151936, 2};
    const double dinput_mebibytes = static_cast<double>(tokens) * 1024 * 2 / mebibyte;
    const double sixteen_tokens = 16.0 * 151936 * 2 / mebibyte;
    EXPECT_LE(logits_mebibytes(sizes, chunk_least_memory),
              1.25 * dinput_mebibytes + sixteen_tokens);
    EXPECT_LE(logits_mebibytes(sizes, chunk_least_memory), logits_mebibytes(sizes));
  }
}

TEST(ChunkLaw, many_chunks_are_added_up_in_float32_unless_memory_matters_more) {
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
