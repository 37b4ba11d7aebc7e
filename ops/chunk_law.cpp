#include "ops/chunk_law.h"

#include <algorithm>

namespace liger {

namespace {

constexpr int64_t mebibyte = int64_t{1} << 20;
constexpr int64_t most_chunks_in_16_bits = 8;

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// Equal chunks, none larger than `largest`, so that no small one is left over. A multiple of the
// tile that products are made in, where there is room for one.
int64_t equal_chunks(int64_t tokens, int64_t largest) {
  const int64_t tile = largest >= 512 ? 128 : 16;
  largest = std::max(largest / tile * tile, tile);
  const int64_t chunks = (tokens + largest - 1) / largest;
  return std::min(tokens, round_up((tokens + chunks - 1) / chunks, tile));
}

}  // namespace

int64_t chunk_tokens_of(const LinearLossSizes& sizes, int64_t asked) {
  if (asked > 0) return std::min(sizes.tokens, asked);
  if (sizes.tokens == 0) return 1;
  const int64_t row_bytes = std::max<int64_t>(sizes.classes * sizes.element_bytes, 1);
  const int64_t weight_bytes = row_bytes * sizes.hidden;
  const int64_t small = std::min<int64_t>(256 * mebibyte / row_bytes, 4096);
  // Logits of half as many rows as the layer has columns are half as large as its gradient.
  const int64_t even = std::clamp<int64_t>(
      std::max(sizes.tokens / most_chunks_in_16_bits, sizes.hidden / 2), 1024, 2048);
  const int64_t large = std::min(std::max(640 * mebibyte, weight_bytes / 2) / row_bytes, even);
  const int64_t fast = std::max({small, large, int64_t{128}});
  if (asked == chunk_automatic) return equal_chunks(sizes.tokens, fast);
  const int64_t dinput_bytes = sizes.tokens * sizes.hidden * sizes.element_bytes;
  return equal_chunks(sizes.tokens, std::min(fast, dinput_bytes * 5 / 4 / row_bytes + 15));
}

bool accumulates_wide(const LinearLossSizes& sizes, int64_t asked_chunk, Accumulate asked) {
  if (asked != Accumulate::automatic) return asked == Accumulate::float32;
  if (asked_chunk == chunk_least_memory) return false;
  const int64_t chunk = chunk_tokens_of(sizes, asked_chunk);
  return (sizes.tokens + chunk - 1) / chunk > most_chunks_in_16_bits;
}

}  // namespace liger
