// Parts of the fused linear cross entropy that reads no logits: templates/linear_loss/scaled_exp.h.
#include "ops/linear_loss/scaled_exp.h"

#include "base/parts.h"
#include "engine/registry.h"
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

int64_t tiles_across(int64_t classes) { return parts(classes, tile_columns); }

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

// Kernels read and write rows in words of 16 bytes, and the engine that copies tiles knows no
// others, and none that share memory.
void check_rows(const Call& call) {
  for (const Input& input : call.op().inputs) {
    if (!input.is_tensor() || !call.has(input.name) || call[input.name].dims < 2) continue;
    const Tensor& tensor = call[input.name];
    if (tensor.row_align_bytes() < 16 || tensor.overlaps()) {
      call.refuse(input.name, "has rows at other addresses than multiples of 16 bytes",
                  "rows of a multiple of 16 bytes, each at its own");
    }
  }
}

Input bf16_rows(std::string name) {
  Input input = rows(std::move(name));
  input.dtypes = {Dtype::bf16};
  return input;
}
Input float_rows(std::string name) {
  Input input = rows(std::move(name));
  input.dtypes = {Dtype::f32};
  return input;
}
Input floats(std::string name) { return dense(std::move(name), {Dtype::f32}); }
Input integers(std::string name) { return dense(std::move(name), {Dtype::i64}); }

std::vector<Knobs> rows_candidates(const Call& call) {
  return {{{"threads", call.on_host() ? 1 : 128}, {"rows", 1}}};
}

int64_t blocks_of_rows(const Call& call, const Knobs& knobs) {
  return row_blocks(call["input"].rows(), knobs);
}

int64_t round_up_to(int64_t count, int64_t to) { return parts(count, to) * to; }

// Sizes that a row of 16-bit elements at aligned addresses can have.
struct Sizes {
  explicit Sizes(const Extent& e)
      : rows(e["rows"]), classes(padded_columns(e["size"])), hidden(padded_columns(e["inner"])) {}
  int64_t rows, classes, hidden;
  int64_t sums() const { return scaled_exp_sums(classes); }
  Sample input() const { return {.input = "input", .shape = {rows, hidden}, .dtype = "bf16"}; }
  Sample weight() const { return {.input = "weight", .shape = {classes, hidden}, .dtype = "bf16"}; }
  Sample target() const {
    return {.input = "target", .shape = {rows}, .dtype = "i64", .below = classes};
  }
  Sample of_rows(std::string name) const {
    return {.input = std::move(name), .shape = {rows}, .dtype = "f32"};
  }
  Sample of_tiles(std::string name) const {
    return {.input = std::move(name), .shape = {rows, sums()}, .dtype = "f32"};
  }
  Sample exponentials() const {
    return {.input = "exponentials", .shape = {rows, classes}, .dtype = "bf16"};
  }
};

// The op's label has the name that the composite's caller knows: a fault is told of that.
Op reference_op(std::string name, const std::string& label) {
  Op op;
  op.name = std::move(name);
  op.doc =
      "the label's score of each token, input[t] . weight[label[t]], and what exponentials "
      "refer to";
  op.internal = true;
  op.inputs = {
      bf16_rows("input"),           dense("weight", {Dtype::bf16}), integers(label),
      written(floats("score")),     written(floats("reference")),   optional(integers("places")),
      integer("ignore_index", -100)};
  op.check = check_rows;
  op.kernels = {
      {.name = "LinearReference",
       .source = "linear_loss/scaled_exp.h",
       .spec = [](const Call& call) -> Spec {
         return {{"hidden", call["input"].last_size()}, {"classes", call["weight"].sizes[0]}};
       },
       .candidates = rows_candidates,
       .blocks = blocks_of_rows,
       .arguments = {"input",
                     "weight",
                     {"target", label.c_str()},
                     "score",
                     "reference",
                     {"fault", FaultOf{label, "ignore_index", "places"}},
                     {"rows", "input.rows"},
                     {"input_stride", "input.stride"},
                     "ignore_index"}}};
  op.example = [label](const Extent& e) -> std::vector<Sample> {
    const Sizes sizes(e);
    Sample labels = sizes.target();
    labels.input = label;
    return {sizes.input(), sizes.weight(), labels, sizes.of_rows("score"),
            sizes.of_rows("reference")};
  };
  return op;
}

const Register reference{reference_op("linear_reference_", "target")};
const Register reference_of_ids{reference_op("linear_reference_of_ids_", "ids")};

const Register product{Op{
    .name = "scaled_exp_",
    .doc = "exp(input @ weight.T - reference), and of each row and tile of columns the sum of that "
           "and the largest logit",
    .internal = true,
    .inputs = {bf16_rows("input"), dense("weight", {Dtype::bf16}), floats("reference"),
               optional(written(bf16_rows("exponentials"))), written(float_rows("sums")),
               written(float_rows("maxima")), optional(integers("wanted"))},
    .check = check_rows,
    .kernels = {{.name = "ScaledExp",
                 .source = "linear_loss/scaled_exp.h",
                 .spec = [](const Call& call) -> Spec {
                   return {{"hidden", call["input"].last_size()},
                           {"classes", call["weight"].sizes[0]},
                           {"stores", call.has("exponentials")},
                           {"tile", Spec{{"rows", tile_rows},
                                         {"columns", tile_columns},
                                         {"depth", tile_depth},
                                         {"stages", stages}}}};
                 },
                 .blocks = [](const Call& call, const Knobs&) { return product_blocks(call); },
                 .threads = [](const Knobs&) { return block_threads; },
                 .shared_bytes = [](const Call& call,
                                    const Knobs&) { return product_shared_bytes(call); },
                 .arguments = {{"input_map", TensorMapOf{"input", tile_rows, tile_depth}},
                               {"weight_map",
                                TensorMapOf{"weight", tile_columns / tiles_of_cluster, tile_depth}},
                               {"exponentials_map",
                                TensorMapOf{"exponentials", stored_rows, stored_columns}},
                               "input",
                               "weight",
                               "exponentials",
                               "reference",
                               "sums",
                               "maxima",
                               "wanted",
                               {"rows", "input.rows"},
                               {"blocks", product_blocks},
                               {"input_stride", "input.stride"},
                               {"exponentials_stride", "exponentials.stride"},
                               {"sums_stride", "sums.stride"}}}},
    .example = [](const Extent& e) -> std::vector<Sample> {
      const Sizes sizes(e);
      return {sizes.input(),
              sizes.weight(),
              sizes.of_rows("reference"),
              sizes.exponentials(),
              sizes.of_tiles("sums"),
              sizes.of_tiles("maxima"),
              {.input = "wanted", .none = true}};
    },
}};

const Register rows_of_product{Op{
    .name = "scaled_exp_rows_",
    .doc = "from a product's sums the loss of each row, and what makes its gradients of products",
    .internal = true,
    .inputs = {bf16_rows("input"), integers("target"), floats("score"), float_rows("sums"),
               float_rows("maxima"), optional(floats("totals")), written(floats("reference")),
               optional(written(bf16_rows("exponentials"))), written(floats("row_loss")),
               written(floats("row_z_loss")), optional(written(floats("factor"))),
               optional(written(dense("scaled_input", {Dtype::bf16}))), written(integers("wanted")),
               integer("classes", 1), integer("ignore_index", -100), flag("again")},
    .check = check_rows,
    .kernels = {{.name = "ScaledExpRows",
                 .source = "linear_loss/scaled_exp.h",
                 .spec = [](const Call& call) -> Spec {
                   return {{"hidden", call["input"].last_size()},
                           {"classes", call.integer("classes")},
                           {"tiles", tiles_across(call.integer("classes"))},
                           {"with_gradient", call.has("exponentials")},
                           {"hold", holds(call, "input", 1)}};
                 },
                 .candidates = rows_candidates,
                 .blocks = blocks_of_rows,
                 .arguments = {"input",
                               "target",
                               "score",
                               "sums",
                               "maxima",
                               {"loss_scale", "totals"},
                               "reference",
                               "exponentials",
                               "row_loss",
                               "row_z_loss",
                               "factor",
                               "scaled_input",
                               "wanted",
                               {"rows", "input.rows"},
                               {"input_stride", "input.stride"},
                               {"sums_stride", "sums.stride"},
                               {"exponentials_stride", "exponentials.stride"},
                               "ignore_index",
                               "again"}}},
    .example = [](const Extent& e) -> std::vector<Sample> {
      const Sizes sizes(e);
      return {sizes.input(),
              sizes.target(),
              sizes.of_rows("score"),
              sizes.of_tiles("sums"),
              sizes.of_tiles("maxima"),
              {.input = "totals", .shape = {3}, .dtype = "f32"},
              sizes.of_rows("reference"),
              sizes.exponentials(),
              sizes.of_rows("row_loss"),
              sizes.of_rows("row_z_loss"),
              sizes.of_rows("factor"),
              {.input = "scaled_input", .shape = {sizes.rows, sizes.hidden}, .dtype = "bf16"},
              {.input = "wanted", .shape = {1}, .dtype = "i64", .below = 1},
              {.input = "classes", .value = static_cast<double>(sizes.classes)}};
    },
}};

}  // namespace

int64_t scaled_exp_sums(int64_t classes) { return padded_columns(tiles_across(classes)); }

bool scaled_exp_pay(const Place& place, int64_t tokens, int64_t hidden, int64_t classes) {
  // Below, reading and writing rows of the input costs as much as the logits would.
  constexpr int64_t least_classes_of_hidden = 16;
  if (classes < least_classes_of_hidden * hidden) return false;
  // A cluster multiplies all of its rows, whether there are as many tokens or not.
  const int64_t of_clusters = round_up_to(tokens, tile_rows * tiles_of_cluster);
  // A few tiles for each multiprocessor, or it is the launches that count.
  constexpr int64_t least_tiles = 1024;
  const int64_t tiles = of_clusters / tile_rows * tiles_across(classes);
  return has_tile_engine(place) && hidden % 8 == 0 && tiles >= least_tiles &&
         of_clusters <= tokens + tokens / 8;
}

}  // namespace liger
