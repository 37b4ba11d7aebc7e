#include "ops/linear_loss/chunking_policy.h"

#include <algorithm>

namespace liger {

namespace {

constexpr int64_t mebibyte = int64_t{1} << 20;
constexpr int64_t most_chunks_in_16_bits = 8;

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// Equal chunks, none larger than `largest`, so that no small one is left over. A multiple of the
// tile that products are made in, where there is room for one.
int64_t equal_chunks(int64_t tokens, int64_t largest) {
  const int64_t tile = largest >= 384 ? 128 : 16;
  largest = std::max(largest / tile * tile, tile);
  const int64_t chunks = (tokens + largest - 1) / largest;
  return std::min(tokens, round_up((tokens + chunks - 1) / chunks, tile));
}

// What a GPU does in the time of moving a byte: 700 TFLOP/s in 16 bits, 60 otherwise, 3 TB/s.
double flops_per_byte(const LinearLossSizes& sizes) { return sizes.element_bytes < 4 ? 230 : 20; }

// Bytes that could be moved in the time of what both divisions do with a block of logits.
// `dweight_bytes` and `dinput_bytes`: what the products of the gradients read and write of those.
double time_of_block(const LinearLossSizes& sizes, double tokens, double classes, int passes,
                     double dweight_bytes, double dinput_bytes) {
  const double hidden = static_cast<double>(sizes.hidden);
  const double element = static_cast<double>(sizes.element_bytes);
  const double logits = tokens * classes * element;
  const double weight = classes * hidden * element;
  const double input = tokens * hidden * element;
  const double product = 2 * tokens * classes * hidden / flops_per_byte(sizes);
  const double scores = std::max(product, input + weight + logits) + logits;
  const double dweight = std::max(product, logits + input + dweight_bytes);
  const double dinput = std::max(product, logits + weight + dinput_bytes);
  return passes * scores + logits + dweight + dinput;
}

double time_of_chunks(const LinearLossSizes& sizes) {
  const double tokens = static_cast<double>(chunk_tokens_of(sizes, chunk_least_memory));
  const double classes = static_cast<double>(sizes.classes);
  const double hidden_bytes = static_cast<double>(sizes.hidden * sizes.element_bytes);
  return static_cast<double>(sizes.tokens) / tokens *
         time_of_block(sizes, tokens, classes, 1, 2 * classes * hidden_bytes,
                       tokens * hidden_bytes);
}

// The sum of the input's gradient over tiles has memory of its own where it is wider than that.
int64_t dinput_sum_bytes(const LinearLossSizes& sizes) {
  return std::max<int64_t>(sizes.element_bytes, 4);
}

double time_of_tiles(const LinearLossSizes& sizes, const VocabularyTiles& tiles) {
  const double tokens = static_cast<double>(tiles.tokens);
  const double classes = static_cast<double>(tiles.classes);
  const double hidden = static_cast<double>(sizes.hidden);
  const double blocks =
      static_cast<double>(sizes.tokens) / tokens * (static_cast<double>(sizes.classes) / classes);
  return blocks * time_of_block(sizes, tokens, classes, 2,
                                2 * classes * hidden * static_cast<double>(sizes.element_bytes),
                                2 * tokens * hidden * static_cast<double>(dinput_sum_bytes(sizes)));
}

// Bytes a weight that the division moves: the weight twice for its logits and once for the input's
// gradient, its own gradient twice, once for each group; and a sum of the input's gradient, twice,
// once for each tile.
double moved(const LinearLossSizes& sizes, const VocabularyTiles& tiles) {
  const double tokens = static_cast<double>(sizes.tokens);
  return 5.0 * static_cast<double>(sizes.element_bytes) *
             static_cast<double>((sizes.tokens + tiles.tokens - 1) / tiles.tokens) +
         2.0 * static_cast<double>(dinput_sum_bytes(sizes)) * tokens /
             static_cast<double>(tiles.classes);
}

// Equal groups, as large as the memory allows.
std::optional<VocabularyTiles> tiles_of_width(const LinearLossSizes& sizes, int64_t classes) {
  const int64_t sum_bytes = sizes.element_bytes < 4 ? sizes.hidden * dinput_sum_bytes(sizes) : 0;
  const int64_t row_bytes = sum_bytes + classes * sizes.element_bytes;
  const int64_t largest = std::min(sizes.tokens, least_memory_bytes(sizes) / row_bytes / 16 * 16);
  if (largest < 16) return {};
  const int64_t groups = (sizes.tokens + largest - 1) / largest;
  const int64_t tokens = round_up((sizes.tokens + groups - 1) / groups, 16);
  return VocabularyTiles{std::min(tokens, sizes.tokens), classes};
}

}  // namespace

int64_t least_memory_bytes(const LinearLossSizes& sizes) {
  const int64_t dinput_bytes = sizes.tokens * sizes.hidden * sizes.element_bytes;
  const int64_t dweight_bytes = sizes.classes * sizes.hidden * sizes.element_bytes;
  return dinput_bytes + (dinput_bytes + dweight_bytes) / 20;
}

int64_t chunk_tokens_of(const LinearLossSizes& sizes, int64_t asked) {
  if (sizes.tokens == 0) return 1;
  if (asked > 0) return std::min(sizes.tokens, asked);
  const int64_t weight_row = std::max<int64_t>(sizes.classes * sizes.element_bytes, 1);
  const int64_t weight_bytes = weight_row * sizes.hidden;
  const int64_t row_bytes = weight_row * sizes.logits;
  const int64_t small = std::min<int64_t>(256 * mebibyte / row_bytes, 4096);
  // Logits of half as many rows as the layer has columns are half as large as its gradient.
  const int64_t even = std::clamp<int64_t>(
      std::max(sizes.tokens / most_chunks_in_16_bits, sizes.hidden / 2), 1024, 2048);
  const int64_t large = std::min(std::max(640 * mebibyte, weight_bytes / 2) / row_bytes, even);
  const int64_t fast = std::max({small, large, int64_t{128}});
  if (asked == chunk_automatic) return equal_chunks(sizes.tokens, fast);
  return equal_chunks(sizes.tokens, std::min(fast, least_memory_bytes(sizes) / row_bytes));
}

std::optional<VocabularyTiles> two_passes_of(const LinearLossSizes& sizes, int64_t asked) {
  if (asked != chunk_least_memory || sizes.tokens == 0) return {};
  std::optional<VocabularyTiles> best;
  for (int64_t classes = 128; classes <= 32768 && classes < sizes.classes; classes *= 2) {
    const auto tiles = tiles_of_width(sizes, classes);
    if (tiles && (!best || moved(sizes, *tiles) < moved(sizes, *best))) best = tiles;
  }
  if (best && time_of_tiles(sizes, *best) < time_of_chunks(sizes)) return best;
  return {};
}

bool accumulates_wide(const LinearLossSizes& sizes, int64_t asked_chunk, Accumulate asked) {
  if (asked != Accumulate::automatic) return asked == Accumulate::float32;
  if (asked_chunk == chunk_least_memory) return false;
  const int64_t chunk = chunk_tokens_of(sizes, asked_chunk);
  return (sizes.tokens + chunk - 1) / chunk > most_chunks_in_16_bits;
}

}  // namespace liger
