// How a fused linear loss divides its work: time against memory. A pure function of the sizes.
#pragma once

#include <cstdint>
#include <optional>

namespace liger {

struct LinearLossSizes {
  int64_t tokens;
  int64_t hidden;
  int64_t classes;
  int64_t element_bytes;  // of logits and weight
  int64_t logits = 1;     // rows of them that a token has at once: with a teacher's, two
};

// What `chunk_tokens` asks for when it is no number of tokens.
constexpr int64_t chunk_automatic = 0;
constexpr int64_t chunk_least_memory = -1;

// Tokens of a chunk, at least 1 and at most all. Automatic: an eighth of them, or half as many as
// the hidden size where that is more, but 1024 to 2048, which costs the products a few percent, or
// 4096 where that many logits are small; fewer where they would outgrow 640 MiB and half the
// weight. Least memory: logits of `least_memory_bytes`.
int64_t chunk_tokens_of(const LinearLossSizes& sizes, int64_t asked);

// What the least memory is, above the gradients: as much as the input's gradient, and a twentieth
// of it and the weight's, which nobody notices beside them.
int64_t least_memory_bytes(const LinearLossSizes& sizes);

// The other division, for the least memory: tokens in few groups, and for each group the classes in
// tiles, twice. The first pass over the tiles finds the losses, the second makes the logits anew
// and the gradients from them. The gradient of a tile's weights is then read and written once a
// group, not once a chunk of a few hundred tokens. The input's gradient is summed over tiles, in
// float32.
struct VocabularyTiles {
  int64_t tokens;   // of a group
  int64_t classes;  // of a tile: a power of two, so that few kernels serve all numbers of tokens
};

// Nothing where chunks of tokens take less time, or more memory was asked for. Both are estimated
// as the sum over their steps of the flops or the bytes of each, whichever takes longer. What
// decides is what a narrow chunk lacks: the product that adds c tokens to the weight's gradient has
// 2 c flops for each 4 bytes that it reads or writes, and a GPU some 230 for each byte, so below
// 500 tokens it waits for memory. A wide layer affords wide chunks, and there the fourth product
// costs more than it saves; so it does in float32, where a GPU has 20 flops a byte.
std::optional<VocabularyTiles> two_passes_of(const LinearLossSizes& sizes, int64_t asked);

// What `accumulate` asks for.
enum class Accumulate : int64_t { automatic = 0, weight_dtype = 1, float32 = 2 };

// True if the weight's gradient is added up in float32. Each 16-bit sum rounds once more: up to
// eight chunks that is about the rounding of the result itself, beyond it grows.
bool accumulates_wide(const LinearLossSizes& sizes, int64_t asked_chunk, Accumulate asked);

}  // namespace liger
