#include "ops/experts/tiles.h"

#include <algorithm>
#include <limits>

namespace liger {
namespace {

constexpr int64_t tile_rows = 128;
constexpr int64_t tile_columns = 256;
constexpr int64_t depth = tile_block;
constexpr int64_t stages = 4;
constexpr int64_t warps_that_store = 8;
constexpr int64_t words = 8;  // elements of 16 bytes

}  // namespace

bool multiplies_by_tiles(const Call& call, std::initializer_list<std::string_view> tensors,
                         int64_t result_columns) {
  if (call.place().capability != 90 || result_columns % words != 0) return false;
  for (const std::string_view name : tensors) {
    const Tensor& tensor = call[name];
    if (size_bytes(tensor.dtype) != 2 || tensor.count() == 0 || tensor.last_size() % words != 0 ||
        tensor.row_align_bytes() < 16 || tensor.overlaps() ||
        tensor.rows() > std::numeric_limits<int>::max())
      return false;
  }
  return true;
}

Spec tile_spec() {
  return {{"rows", tile_rows}, {"columns", tile_columns}, {"depth", depth}, {"stages", stages}};
}

int64_t tile_blocks(const Call& call) { return std::max(call.place().multiprocessors / 2, 1) * 2; }

int64_t tile_threads(const Knobs&) { return 384; }

// The ring of stages, two buffers a warp, a pair of barriers a stage, and what aligns it all.
int tile_shared_bytes(const Call&, const Knobs&) {
  const int64_t ring = stages * (tile_rows + tile_columns) * depth * 2;
  const int64_t buffers = warps_that_store * 2 * stored_rows * tile_block * 2;
  return static_cast<int>(ring + buffers + stages * 16 + 1024);
}

}  // namespace liger
