// How a fused linear loss divides its tokens: time against memory. A pure function of the sizes.
#pragma once

#include <cstdint>

namespace liger {

struct LinearLossSizes {
  int64_t tokens;
  int64_t hidden;
  int64_t classes;
  int64_t element_bytes;  // of logits and weight
};

// What `chunk_tokens` asks for when it is no number of tokens.
constexpr int64_t chunk_automatic = 0;
constexpr int64_t chunk_least_memory = -1;

// Tokens of a chunk, at least 1 and at most all. Automatic: an eighth of them, or half as many as
// the hidden size where that is more, but 1024 to 2048, which costs the products a few percent, or
// 4096 where that many logits are small; fewer where they would outgrow 640 MiB and half the
// weight. Least memory: logits that take about what the input's gradient takes.
int64_t chunk_tokens_of(const LinearLossSizes& sizes, int64_t asked);

// What `accumulate` asks for.
enum class Accumulate : int64_t { automatic = 0, weight_dtype = 1, float32 = 2 };

// True if the weight's gradient is added up in float32. Each 16-bit sum rounds once more: up to
// eight chunks that is about the rounding of the result itself, beyond it grows.
bool accumulates_wide(const LinearLossSizes& sizes, int64_t asked_chunk, Accumulate asked);

}  // namespace liger
