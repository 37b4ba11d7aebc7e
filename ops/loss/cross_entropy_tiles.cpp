// The parts of a fused linear loss that takes the classes in tiles, twice. They write into buffers
// of the composite.
#include "engine/registry.h"
#include "ops/loss/cross_entropy.h"

namespace liger {
namespace {

constexpr int64_t numbers_of_row_running = 5;
constexpr int64_t numbers_of_row_gradient = 4;

int64_t width(const Call& call) { return call["logits"].last_size(); }

void check_tile(const Call& call) {
  const Tensor& logits = call["logits"];
  const auto text = [](auto value) { return std::to_string(value); };
  require_dims(call, "logits", 2, "[rows, columns]");
  if (logits.last_size() % 8 != 0 || logits.row_stride() % 8 != 0 || logits.align_bytes < 16) {
    call.refuse("logits", "has shape " + shape_text(logits),
                "rows of a multiple of 8 columns that start at a multiple of 16 bytes");
  }
  const int64_t columns = call.integer("columns");
  if (columns < 1 || columns > logits.last_size()) {
    call.refuse("columns", "is " + text(columns), "1 to " + text(logits.last_size()));
  }
  const int64_t first = call.integer("first_column");
  if (first < 0 || first + columns > call.integer("classes")) {
    call.refuse("first_column", "is " + text(first), "a tile inside the classes");
  }
}

void check_numbers(const Call& call, std::string_view name, int64_t numbers, bool may_be_wider) {
  const Tensor& tensor = call[name];
  const bool has_shape =
      tensor.dims == 2 && tensor.sizes[0] == call["logits"].rows() && tensor.sizes[1] == numbers;
  const Dtype dtype = arithmetic(call["logits"].dtype);
  const bool has_dtype = tensor.dtype == dtype || (may_be_wider && tensor.dtype == Dtype::f64);
  if (has_shape && has_dtype) return;
  call.refuse(name, "has shape " + shape_text(tensor),
              std::to_string(numbers) + " numbers of each row, " + std::string(name_of(dtype)));
}

std::vector<Knobs> tile_candidates(const Call& call) {
  if (call.on_host()) return {{{"threads", 1}, {"rows", 1}}, {{"threads", 1}, {"rows", 4}}};
  std::vector<Knobs> list;
  const int64_t first = width(call) > 4096 ? 256 : 128;
  for (const int64_t threads : {first, 384 - first, int64_t{512}, int64_t{64}}) {
    list.push_back({{"threads", threads}, {"rows", 1}});
  }
  return list;
}

int64_t tile_blocks(const Call& call, const Knobs& knobs) {
  return row_blocks(call["logits"].rows(), knobs);
}

// What both passes take.
std::vector<Sample> tile_example(const Extent& e) {
  return {
      {.input = "logits", .shape = {e["rows"], padded_columns(e["size"])}},
      {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
      {.input = "weight", .none = true},
      {.input = "gradient", .shape = {e["rows"], numbers_of_row_gradient}, .dtype = "arithmetic"},
      {.input = "columns", .value = static_cast<double>(e["size"])},
      {.input = "classes", .value = static_cast<double>(e["size"])}};
}

std::vector<Input> accumulate_inputs() {
  std::vector<Input> inputs = {rows("logits"),
                               dense("target", {Dtype::i64}),
                               optional(dense("weight")),
                               optional(dense("totals")),
                               optional(dense("grad_output")),
                               optional(written(dense("loss"))),
                               optional(written(dense("z_loss"))),
                               optional(written(dense("predicted", {Dtype::i64}))),
                               written(dense("running", {Dtype::f32, Dtype::f64})),
                               written(dense("gradient")),
                               optional(dense("places", {Dtype::i64})),
                               integer("first_column", 0),
                               integer("columns", 1),
                               integer("classes", 1),
                               integer("first_row", 0)};
  for (Input& option : cross_entropy_options()) inputs.push_back(std::move(option));
  return inputs;
}

Spec accumulate_spec(const Call& call) {
  const Dtype logits = call["logits"].dtype;
  const bool wants_best = call.flag("want_accuracy") || call.flag("want_predicted");
  return {
      {"logits", logits},
      {"running", call["running"].dtype},
      {"columns", width(call)},
      {"has_weight", call.has("weight")},
      {"has_grad_output", call.has("grad_output")},
      {"smoothing", call.real("label_smoothing") != 0.0},
      {"z_loss", call.real("lse_square_scale") != 0.0},
      {"softcap", call.real("softcap") != 0.0},
      {"token_scaling", call.flag("token_scaling")},
      {"accuracy", call.has("loss") && wants_best},
      {"with_loss", call.has("loss")},
      {"scaled", call.has("totals")},
      {"unit",
       call.has("totals") ? static_cast<int64_t>(gradient_unit(logits, reduction_of(call))) : 1},
      {"joined", reduction_of(call) == Reduction::none}};
}

const Register accumulate{Op{
    .name = "cross_entropy_accumulate_",
    .doc = "folds a tile of logits into what is known of its rows; the last one makes their losses "
           "and what their gradients are made from",
    .internal = true,
    .inputs = accumulate_inputs(),
    .check =
        [](const Call& call) {
          const Dtype logits = call["logits"].dtype;
          check_tile(call);
          check_numbers(call, "running", numbers_of_row_running, true);
          check_numbers(call, "gradient", numbers_of_row_gradient, false);
          check_cross_entropy(call, call["logits"].rows(), call.integer("classes"), logits);
        },
    .kernels = {{.name = "CrossEntropyAccumulate",
                 .source = "loss/cross_entropy_tiles.h",
                 .spec = accumulate_spec,
                 .candidates = tile_candidates,
                 .blocks = tile_blocks,
                 .arguments = {"logits",
                               "target",
                               {"class_weight", "weight"},
                               "totals",
                               "grad_output",
                               "loss",
                               "z_loss",
                               "predicted",
                               "running",
                               "gradient",
                               {"fault", FaultOf{"target", "ignore_index", "places"}},
                               {"rows", "logits.rows"},
                               {"stride", "logits.stride"},
                               "first_column",
                               "columns",
                               "classes",
                               "ignore_index",
                               "first_row",
                               "label_smoothing",
                               "lse_square_scale",
                               "softcap"}}},
    .example = [](const Extent& e) -> std::vector<Sample> {
      std::vector<Sample> samples = tile_example(e);
      samples.insert(samples.end(),
                     {{.input = "totals", .shape = {3}, .dtype = "arithmetic"},
                      {.input = "grad_output", .none = true},
                      {.input = "loss", .shape = {e["rows"]}, .dtype = "arithmetic"},
                      {.input = "z_loss", .shape = {e["rows"]}, .dtype = "arithmetic"},
                      {.input = "predicted", .none = true},
                      {.input = "running",
                       .shape = {e["rows"], numbers_of_row_running},
                       .dtype = "arithmetic"}});
      return samples;
    },
}};

const Register gradient{Op{
    .name = "cross_entropy_tile_gradient_",
    .doc = "the gradient of a tile of logits overwrites it",
    .internal = true,
    .inputs = {written(rows("logits")), dense("target", {Dtype::i64}), optional(dense("weight")),
               dense("gradient"), integer("first_column", 0), integer("columns", 1),
               integer("classes", 1), integer("ignore_index", -100), real("label_smoothing", "0.0"),
               real("softcap", "0.0")},
    .check =
        [](const Call& call) {
          check_tile(call);
          check_numbers(call, "gradient", numbers_of_row_gradient, false);
        },
    .kernels = {{.name = "CrossEntropyTileGradient",
                 .source = "loss/cross_entropy_tiles.h",
                 .spec = [](const Call& call) -> Spec {
                   return {{"logits", call["logits"].dtype},
                           {"columns", width(call)},
                           {"has_weight", call.has("weight")},
                           {"smoothing", call.real("label_smoothing") != 0.0},
                           {"softcap", call.real("softcap") != 0.0}};
                 },
                 .candidates = tile_candidates,
                 .blocks = tile_blocks,
                 .arguments = {"logits",
                               "target",
                               {"class_weight", "weight"},
                               "gradient",
                               {"rows", "logits.rows"},
                               {"stride", "logits.stride"},
                               "first_column",
                               "columns",
                               "classes",
                               "ignore_index",
                               "softcap"}}},
    .example = tile_example,
}};

}  // namespace
}  // namespace liger
