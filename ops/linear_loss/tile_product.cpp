#include "ops/linear_loss/tile_product.h"

#include "base/parts.h"
#include "ops/row_knobs.h"

namespace liger {

namespace {

constexpr int64_t tile_rows = 128;
constexpr int64_t tile_columns = 256;
constexpr int64_t tile_depth = 64;
constexpr int64_t stages = 4;
constexpr int64_t tiles_of_cluster = 2;
constexpr int64_t stored_rows = 16;     // by one warp
constexpr int64_t stored_columns = 64;  // 128 bytes
constexpr int64_t warps_that_store = 8;
constexpr int64_t block_threads = 384;

bool has_tile_engine(const Place& place) { return place.capability == 90; }

int64_t product_blocks(const Call& call) {
  const int64_t down = parts(call["input"].rows(), tile_rows);
  const int64_t tiles = down * tiles_across(call["weight"].sizes[0]);
  if (!has_tile_engine(call.place())) return tiles;
  return std::max<int64_t>(call.place().multiprocessors / tiles_of_cluster, 1) * tiles_of_cluster;
}

// The ring of stages, two buffers a warp, a pair of barriers a stage, and what aligns it all.
int product_shared_bytes(const Call& call) {
  if (!has_tile_engine(call.place())) return 0;
  const int64_t ring = stages * (tile_rows + tile_columns) * tile_depth * 2;
  const int64_t buffers = warps_that_store * 2 * stored_rows * stored_columns * 2;
  return static_cast<int>(ring + buffers + stages * 16 + 1024);
}

Input of_dtype(Input input, Dtype dtype) {
  input.dtypes = {dtype};
  return input;
}

}  // namespace

bool tile_product_pays(const Place& place, int64_t tokens, int64_t hidden, int64_t classes) {
  // A cluster multiplies all of its rows, whether there are as many tokens or not.
  constexpr int64_t cluster_rows = tile_rows * tiles_of_cluster;
  const int64_t clusters = parts(tokens, cluster_rows);
  // A few tiles for each multiprocessor, or it is the launches that count.
  constexpr int64_t least_tiles = 1024;
  return has_tile_engine(place) && hidden % 8 == 0 &&
         clusters * tiles_of_cluster * tiles_across(classes) >= least_tiles &&
         clusters * cluster_rows <= tokens + tokens / 8;
}

int64_t tiles_across(int64_t classes) { return parts(classes, tile_columns); }
int64_t tile_numbers(int64_t classes) { return padded_columns(tiles_across(classes)); }

void check_tile_rows(const Call& call) {
  for (const Input& input : call.op().inputs) {
    if (!input.is_tensor() || !call.has(input.name) || call[input.name].dims < 2) continue;
    const Tensor& tensor = call[input.name];
    if (tensor.row_align_bytes() < 16 || tensor.overlaps()) {
      call.refuse(input.name, "has rows at other addresses than multiples of 16 bytes",
                  "rows of a multiple of 16 bytes, each at its own");
    }
  }
}

Input bf16_rows(std::string name) { return of_dtype(rows(std::move(name)), Dtype::bf16); }
Input float_rows(std::string name) { return of_dtype(rows(std::move(name)), Dtype::f32); }
Input floats(std::string name) { return dense(std::move(name), {Dtype::f32}); }
Input integers(std::string name) { return dense(std::move(name), {Dtype::i64}); }

KernelOf tile_kernel(KernelOf kernel, const std::string& made, std::vector<Argument> others,
                     std::function<Spec(const Call&)> also) {
  kernel.spec = [made, also](const Call& call) {
    Spec spec{{"hidden", call["input"].last_size()},
              {"classes", call["weight"].sizes[0]},
              {"stores", call.has(made)}};
    if (also) {
      for (const auto& field : also(call)) spec.push_back(field);
    }
    spec.push_back({"tile", Spec{{"rows", tile_rows},
                                 {"columns", tile_columns},
                                 {"depth", tile_depth},
                                 {"stages", stages}}});
    return spec;
  };
  kernel.blocks = [](const Call& call, const Knobs&) { return product_blocks(call); };
  kernel.threads = [](const Knobs&) { return block_threads; };
  kernel.shared_bytes = [](const Call& call, const Knobs&) { return product_shared_bytes(call); };
  kernel.arguments = {
      {"input_map", TensorMapOf{"input", tile_rows, tile_depth}},
      {"weight_map", TensorMapOf{"weight", tile_columns / tiles_of_cluster, tile_depth}},
      {made + "_map", TensorMapOf{made, stored_rows, stored_columns}},
      "input",
      "weight",
      {made, made},
      {"rows", "input.rows"},
      {"blocks", product_blocks},
      {"input_stride", "input.stride"},
      {made + "_stride", made + ".stride"}};
  for (Argument& other : others) kernel.arguments.push_back(std::move(other));
  return kernel;
}

std::vector<Knobs> single_row_knobs(const Call& call) {
  return {{{"threads", call.on_host() ? 1 : 128}, {"rows", 1}}};
}

int64_t blocks_of_rows(const Call& call, const Knobs& knobs) {
  return row_blocks(call["input"].rows(), knobs);
}

TileSizes::TileSizes(const Extent& e)
    : rows(e["rows"]), classes(padded_columns(e["size"])), hidden(padded_columns(e["inner"])) {}
Sample TileSizes::input() const {
  return {.input = "input", .shape = {rows, hidden}, .dtype = "bf16"};
}
Sample TileSizes::weight() const {
  return {.input = "weight", .shape = {classes, hidden}, .dtype = "bf16"};
}
Sample TileSizes::labels(std::string name) const {
  return {.input = std::move(name), .shape = {rows}, .dtype = "i64", .below = classes};
}
Sample TileSizes::of_rows(std::string name) const {
  return {.input = std::move(name), .shape = {rows}, .dtype = "f32"};
}
Sample TileSizes::of_tiles(std::string name) const {
  return {.input = std::move(name), .shape = {rows, tile_numbers(classes)}, .dtype = "f32"};
}
Sample TileSizes::of_classes(std::string name) const {
  return {.input = std::move(name), .shape = {rows, classes}, .dtype = "bf16"};
}

}  // namespace liger
