// Tiles of grouped products by the matrix units of sm_90a: templates/device/sm90/grouped_tiles.h.
#pragma once

#include <initializer_list>

#include "engine/op.h"

namespace liger {

// Blocks of elements that the copy engine brings, of both sides.
inline constexpr int tile_block = 64;
// Rows of the result that one warp stores.
inline constexpr int stored_rows = 16;

// The units multiply two-byte elements; rows of all these tensors are read in words of 16 bytes, by
// an engine that knows no others, and none that share memory. `columns`: of the result.
bool multiplies_by_tiles(const Call& call, std::initializer_list<std::string_view> tensors,
                         int64_t columns);

Spec tile_spec();
int64_t tile_blocks(const Call& call);  // as many as are at work at once, in pairs
int64_t tile_threads(const Knobs& knobs);
int tile_shared_bytes(const Call& call, const Knobs& knobs);

}  // namespace liger
