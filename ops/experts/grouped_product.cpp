#include "base/parts.h"
#include "engine/registry.h"
#include "ops/experts/grouped.h"
#include "ops/experts/tiles.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t tile = 64;  // of PlainTile

int64_t places_of(const Call& call) { return call["tokens"].count(); }
Dtype dtype_of_x(const Call& call) { return call["x"].dtype; }
int64_t element_bytes(const Call& call) { return size_bytes(dtype_of_x(call)); }
std::vector<Knobs> threads(const Call& call) { return {{{"threads", call.on_host() ? 1 : 256}}}; }
int64_t threads_of(const Knobs& knobs) { return value_of(knobs, "threads", 1); }

int64_t inner_of(const Call& call) { return call["weight"].sizes[call.flag("turned") ? 1 : 2]; }
int64_t columns_of(const Call& call) { return call["weight"].sizes[call.flag("turned") ? 2 : 1]; }

// Rows of tokens, or one for each place.
void require_rows(const Call& call, std::string_view rows, bool gathers) {
  require_dims(call, rows, 2, "[rows, size]");
  if (gathers || call[rows].sizes[0] == places_of(call)) return;
  call.refuse(rows, "has shape " + shape_text(call[rows]),
              std::to_string(places_of(call)) + " rows, as many as 'tokens' has elements");
}

void check_product(const Call& call) {
  require_dims(call, "weight", 3, "[experts, out, in], or with 'turned' [experts, in, out]");
  require_same_dtype(call, "x", "weight");
  require_rows(call, "x", call.flag("gathers"));
  if (call["x"].last_size() != inner_of(call))
    call.refuse("x", "has shape " + shape_text(call["x"]),
                std::to_string(inner_of(call)) + " columns, those of 'weight'");
}

bool by_tiles(const Call& call) {
  return places_of(call) > 0 && multiplies_by_tiles(call, {"x", "weight"}, columns_of(call));
}

KernelOf plain_product() {
  return {.name = "GroupedProduct",
          .source = "experts/grouped_product.h",
          .when = [](const Call& call) { return !by_tiles(call); },
          .spec = [](const Call& call) -> Spec {
            return {{"x", call["x"].dtype},
                    {"gathers", call.flag("gathers")},
                    {"turned", call.flag("turned")},
                    {"align_bytes", element_bytes(call)}};
          },
          .candidates = threads,
          .blocks =
              [](const Call& call, const Knobs&) {
                return (parts(places_of(call), tile) + call["ends"].count() + 1) *
                       parts(columns_of(call), tile);
              },
          .threads = threads_of,
          .arguments = {"x",
                        "weight",
                        "tokens",
                        "ends",
                        "y",
                        {"num_experts", [](const Call& call) { return call["ends"].count(); }},
                        {"places", places_of},
                        {"inner", inner_of},
                        {"columns", columns_of},
                        {"x_stride", "x.stride"}}};
}

KernelOf tile_product() {
  return {.name = "GroupedTileProduct",
          .source = "device/sm90/grouped_tiles.h",
          .when = by_tiles,
          .spec = [](const Call& call) -> Spec {
            return {{"x", call["x"].dtype},
                    {"gathers", call.flag("gathers")},
                    {"turned", call.flag("turned")},
                    {"tile", tile_spec()}};
          },
          .blocks = [](const Call& call, const Knobs&) { return tile_blocks(call); },
          .threads = tile_threads,
          .shared_bytes = tile_shared_bytes,
          .arguments = {{"x_map", TensorMapOf{"x", tile_block, tile_block}},
                        {"weight_map", TensorMapOf{"weight", tile_block, tile_block, true}},
                        {"y_map", TensorMapOf{"y", stored_rows, tile_block}},
                        "x",
                        "tokens",
                        "ends",
                        "y",
                        {"num_experts", [](const Call& call) { return call["ends"].count(); }},
                        {"places", places_of},
                        {"inner", inner_of},
                        {"columns", columns_of},
                        {"x_stride", "x.stride"},
                        {"blocks", tile_blocks}}};
}

const Register grouped_product{Op{
    .name = "grouped_product",
    .doc = "y[p] = x[p] @ weight[e].T for the places p of each expert e, or with `turned` x[p] @ "
           "weight[e]; with `gathers` x[tokens[p]] takes the place of x[p]; zeros at places "
           "of no expert",
    .internal = true,
    .inputs = {rows("x"), dense("weight"), dense("tokens", {Dtype::i32}),
               dense("ends", {Dtype::i32}), flag("gathers"), flag("turned")},
    .outputs =
        {{"y",
          [](const Call& call) {
            return sized({size_of("tokens", 0), size_of("weight", call.flag("turned") ? 2 : 1)});
          },
          dtype_of_x, false}},
    .check = check_product,
    .kernels = {plain_product(), tile_product()},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["inner"]}},
              {.input = "weight", .shape = {e["num_experts"], e["size"], e["inner"]}},
              pairs_sample("tokens", e, e["rows"]),
              {.input = "ends", .shape = {e["num_experts"]}, .dtype = "i32", .below = 1},
              {.input = "gathers", .value = 1}};
    },
    .sizes = expert_sizes(),
}};

int64_t rows_of_gradient(const Call& call) { return call["x"].last_size(); }
int64_t columns_of_gradient(const Call& call) { return call["right"].last_size(); }

bool gradient_by_tiles(const Call& call) {
  return places_of(call) > 0 &&
         multiplies_by_tiles(call, {"x", "right"}, columns_of_gradient(call));
}

KernelOf plain_gradient() {
  return {.name = "GroupedWeightGradient",
          .source = "experts/grouped_product.h",
          .when = [](const Call& call) { return !gradient_by_tiles(call); },
          .spec = [](const Call& call) -> Spec {
            return {{"x", call["x"].dtype},
                    {"gathers_left", call.flag("gathers")},
                    {"gathers_right", call.flag("gathers_right")},
                    {"align_bytes", element_bytes(call)}};
          },
          .candidates = threads,
          .blocks =
              [](const Call& call, const Knobs&) {
                return call["ends"].count() * parts(rows_of_gradient(call), tile) *
                       parts(columns_of_gradient(call), tile);
              },
          .threads = threads_of,
          .arguments = {{"left", "x"},
                        "right",
                        "tokens",
                        "ends",
                        "y",
                        {"rows", rows_of_gradient},
                        {"columns", columns_of_gradient},
                        {"left_stride", "x.stride"},
                        {"right_stride", "right.stride"}}};
}

KernelOf tile_gradient() {
  return {.name = "GroupedTileGradient",
          .source = "device/sm90/grouped_tiles.h",
          .when = gradient_by_tiles,
          .spec = [](const Call& call) -> Spec {
            return {{"x", call["x"].dtype},
                    {"gathers_left", call.flag("gathers")},
                    {"gathers_right", call.flag("gathers_right")},
                    {"tile", tile_spec()}};
          },
          .blocks = [](const Call& call, const Knobs&) { return tile_blocks(call); },
          .threads = tile_threads,
          .shared_bytes = tile_shared_bytes,
          .arguments = {{"left_map", TensorMapOf{"x", tile_block, tile_block}},
                        {"right_map", TensorMapOf{"right", tile_block, tile_block}},
                        {"y_map", TensorMapOf{"y", stored_rows, tile_block}},
                        {"left", "x"},
                        "right",
                        "tokens",
                        "ends",
                        "y",
                        {"num_experts", [](const Call& call) { return call["ends"].count(); }},
                        {"rows", rows_of_gradient},
                        {"columns", columns_of_gradient},
                        {"left_stride", "x.stride"},
                        {"right_stride", "right.stride"},
                        {"blocks", tile_blocks}}};
}

const Register grouped_weight_gradient{Op{
    .name = "grouped_weight_gradient",
    .doc = "y[e] = the sum over the places p of expert e of the outer products of x[p] and "
           "right[p]; with a flag the row of tokens[p] takes the place of row p",
    .internal = true,
    .inputs = {rows("x"), rows("right"), dense("tokens", {Dtype::i32}), dense("ends", {Dtype::i32}),
               flag("gathers"), flag("gathers_right")},
    .outputs = {{"y",
                 [](const Call&) {
                   return sized({size_of("ends", 0), size_of("x", 1), size_of("right", 1)});
                 },
                 dtype_of_x, false}},
    .check =
        [](const Call& call) {
          require_same_dtype(call, "x", "right");
          require_rows(call, "x", call.flag("gathers"));
          require_rows(call, "right", call.flag("gathers_right"));
        },
    .kernels = {plain_gradient(), tile_gradient()},
    .example = [](const Extent& e) -> std::vector<Sample> {
      const int64_t pairs = e["rows"] * e["slots"];
      return {{.input = "x", .shape = {pairs, e["size"]}},
              {.input = "right", .shape = {e["rows"], e["inner"]}},
              pairs_sample("tokens", e, e["rows"]),
              {.input = "ends", .shape = {e["num_experts"]}, .dtype = "i32", .below = 1},
              {.input = "gathers_right", .value = 1}};
    },
    .sizes = expert_sizes(),
}};

}  // namespace
}  // namespace liger
