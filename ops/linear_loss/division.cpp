#include "ops/linear_loss/division.h"

#include <algorithm>

#include "base/parts.h"
#include "ops/linear_loss/scaled_exp.h"

namespace liger {

namespace {

constexpr int64_t mebibyte = int64_t{1} << 20;

// Tokens of the largest unit whose logits are kept. As many as were asked for are always few
// enough.
int64_t most_tokens_of_unit(const LinearLossSizes& sizes, int64_t asked, int64_t chunk) {
  if (asked != chunk_automatic) return chunk;
  const int64_t row_bytes = std::max<int64_t>(sizes.classes * sizes.element_bytes, 1);
  return std::max(chunk, std::max(576 * mebibyte, row_bytes * sizes.hidden / 2) / row_bytes);
}

// One product more, but of the kept tokens alone.
bool statistics_first_saves(const LossTraits& traits, int64_t tokens) {
  const int64_t products = 1 + int64_t{traits.input_gradient} + int64_t{traits.weight_gradient};
  return traits.kept && (products + 1) * *traits.kept < products * tokens;
}

// As many units as have about that many tokens, in equal chunks.
int64_t units_of_chunk(const Units& units, int64_t tokens) {
  const int64_t most = std::max<int64_t>(tokens / std::max<int64_t>(units.of_unit(), 1), 1);
  const int64_t chunks = std::max<int64_t>(parts(units.count, most), 1);
  return std::max<int64_t>(parts(units.count, chunks), 1);
}

}  // namespace

LossDivision divide(const Place& place, const LinearLossSizes& sizes, const Units& units,
                    const LossTraits& traits, int64_t asked_chunk, Accumulate accumulate) {
  const Units tokens{.count = units.all()};
  const int64_t chunk = chunk_tokens_of(sizes, asked_chunk);
  LossDivision result{
      .way = Way::logits, .units = tokens, .chunk = chunk, .wide_sum = false, .tiles = {}};
  if (traits.tiles && traits.weight_gradient) {
    if (const auto tiles = two_passes_of(sizes, asked_chunk)) {
      result.way = Way::classes;
      result.tiles = *tiles;
    }
  }
  const bool together = traits.gradient && traits.whole_units;
  if (together && (units.of_unit() > most_tokens_of_unit(sizes, asked_chunk, chunk) ||
                   statistics_first_saves(traits, units.all()))) {
    result.way = Way::statistics_first;
  } else if (together) {
    result.units = units;
    result.chunk = units_of_chunk(units, chunk);
  }
  if (result.way == Way::logits && traits.plain &&
      scaled_exp_pay(place, std::min(result.chunk_tokens(), sizes.tokens), sizes.hidden,
                     sizes.classes)) {
    result.way = Way::exponentials;
  }
  const int64_t sums = asked_chunk == chunk_least_memory ? asked_chunk : result.chunk_tokens();
  result.wide_sum = accumulates_wide(sizes, sums, accumulate);
  return result;
}

}  // namespace liger
