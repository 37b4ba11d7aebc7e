// How the work of a loss behind a linear layer is divided: a pure function of the sizes, the device
// and what the loss asks for. The estimates are those of chunking_policy.h.
#pragma once

#include "engine/call.h"
#include "ops/linear_loss/chunking_policy.h"

namespace liger {

// How the tokens of a batch belong together: [parts, count, tokens]. A unit is what a loss must see
// at once, of each part the tokens at the same index: one token of one part, one sequence, or a
// pair of sequences, chosen and rejected, of two parts.
struct Units {
  int64_t parts = 1;
  int64_t count = 0;
  int64_t tokens = 1;  // of a unit, in each part

  int64_t of_unit() const { return parts * tokens; }
  int64_t all() const { return count * of_unit(); }
};

enum class Way {
  logits,            // of a chunk, overwritten with their gradient
  exponentials,      // of a chunk, in place of its logits: ops/linear_loss/scaled_exp.h
  statistics_first,  // of all tokens, then the loss, then gradients by chunks of single tokens
  classes,           // in tiles, for groups of tokens, twice
};

struct LossDivision {
  Way way;
  Units units;            // that chunks are made of
  int64_t chunk;          // how many units
  bool wide_sum;          // the weight's gradient is added up in wider numbers than the weight
  VocabularyTiles tiles;  // of `classes`

  int64_t chunk_tokens() const { return chunk * units.of_unit(); }
};

// What decides beside the sizes.
struct LossTraits {
  bool plain = false;        // bfloat16 and no option that exponentials cannot follow
  bool whole_units = false;  // the gradient of a token depends on all of its unit
  bool tiles = false;        // the loss can take the classes in tiles
  bool gradient = false;     // of anything
  bool input_gradient = false;
  bool weight_gradient = false;
  std::optional<int64_t> kept = {};  // tokens that are not ignored, where some may be left out
};

// Chunks have about as many tokens as chunk_tokens_of() says, in whole units. Units whose logits
// would take more than 576 MiB and half the weight, or with chunk_least_memory more than
// least_memory_bytes(), are `statistics_first`, which costs one more product. So are those that it
// costs less: it looks at single tokens, and can leave out ignored ones.
LossDivision divide(const Place& place, const LinearLossSizes& sizes, const Units& units,
                    const LossTraits& traits, int64_t asked_chunk, Accumulate accumulate);

}  // namespace liger
