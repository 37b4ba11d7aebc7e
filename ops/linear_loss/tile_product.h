// Ops whose kernels are tile products of a bfloat16 layer, input @ weight.T, and make something of
// each tile: what they share. templates/device/sm90/tile_product.h.
#pragma once

#include "engine/op.h"

namespace liger {

// Where the device has an engine that copies tiles (elsewhere there are plain sums), and the sizes
// keep it busy.
bool tile_product_pays(const Place& place, int64_t tokens, int64_t hidden, int64_t classes);

// Tiles of columns, each with numbers of its own of every row.
int64_t tiles_across(int64_t classes);
// Floats in a row of those, padding included.
int64_t tile_numbers(int64_t classes);

// Kernels read and write rows in words of 16 bytes, and the engine that copies tiles knows no
// others, and none that share memory.
void check_tile_rows(const Call& call);

Input bf16_rows(std::string name);
Input float_rows(std::string name);
Input floats(std::string name);
Input integers(std::string name);

// A kernel whose struct begins with the maps of the input, the weight and `made`, which is what it
// writes, then these three, rows, blocks and two strides; `others` follow. Its spec is hidden,
// classes and stores, which says if `made` is there, then `also`, then the tile.
KernelOf tile_kernel(KernelOf kernel, const std::string& made, std::vector<Argument> others,
                     std::function<Spec(const Call&)> also = {});

// For kernels of a block a row of the call's input.
std::vector<Knobs> single_row_knobs(const Call& call);
int64_t blocks_of_rows(const Call& call, const Knobs& knobs);

// Sizes that a row of 16-bit elements at aligned addresses can have.
struct TileSizes {
  explicit TileSizes(const Extent& e);

  int64_t rows, classes, hidden;

  Sample input() const;
  Sample weight() const;
  Sample labels(std::string name) const;
  Sample of_rows(std::string name) const;
  Sample of_tiles(std::string name) const;
  Sample of_classes(std::string name) const;
};

}  // namespace liger
