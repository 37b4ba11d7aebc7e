#include "ops/loss/divergence.h"

#include "base/parts.h"
#include "engine/registry.h"

namespace liger {
namespace {

// As in templates/loss/divergence.h.
constexpr int64_t piece_width = 8192;
int64_t pieces_of_row(const Call& call) { return parts(call["input"].last_size(), piece_width); }
int64_t pieces(const Call& call) { return call["input"].rows() * pieces_of_row(call); }

enum class Divided : int64_t { none = 0, mean = 1, sum = 2, batchmean = 3 };
Divided reduction(const Call& call) { return static_cast<Divided>(call.integer("reduction")); }
bool each(const Call& call) { return reduction(call) == Divided::none; }
bool by_rows(const Call& call) {
  return reduction(call) == Divided::mean || reduction(call) == Divided::batchmean;
}
bool labelled(const Call& call) {
  return call.op().input_index("labels") >= 0 && call.has("labels");
}
// Only the device knows how many rows count.
bool counts_on_device(const Call& call) { return labelled(call) && by_rows(call); }

// What the host knows of the denominator.
int64_t divisor(const Call& call) {
  int64_t result = reduction(call) == Divided::mean ? call["input"].last_size() : 1;
  if (by_rows(call) && !labelled(call)) result *= call["input"].rows();
  return result;
}

double unit(const Call& call) {
  return gradient_unit(call["input"].dtype, by_rows(call) ? Reduction::mean : Reduction::none);
}

Dtype loss_dtype(const Call& call) { return arithmetic(call["input"].dtype); }
int64_t none(const Call&) { return 0; }

// One-block kernels read a few bytes a row.
std::vector<Knobs> one_block_candidates(const Call& call) {
  return {{{"threads", call.on_host() ? 1 : 1024}}};
}

KernelOf count_kernel() {
  return {.name = "CrossEntropyTotals",
          .source = "loss/totals.h",
          .when = counts_on_device,
          .spec = [](const Call& call) -> Spec {
            return {{"arithmetic", loss_dtype(call)},
                    {"mean", true},
                    {"has_weight", false},
                    {"has_num_items", false}};
          },
          .candidates = one_block_candidates,
          .blocks = [](const Call&, const Knobs&) { return int64_t{1}; },
          .threads = [](const Knobs& knobs) { return value_of(knobs, "threads", 1); },
          .arguments = {{"target", "labels"},
                        {"class_weight", none},
                        {"num_items", none},
                        "totals",
                        {"rows", "input.rows"},
                        {"classes", none},
                        "ignore_index"}};
}

std::vector<Knobs> candidates(const Call& call) {
  auto list = row_candidates(call, std::min(call["input"].last_size(), piece_width), 0);
  if (pieces_of_row(call) > 1 && !call.on_host()) {
    std::erase_if(list, [](const Knobs& knobs) { return value_of(knobs, "rows", 1) > 1; });
  }
  return list;
}

KernelOf rows_kernel(const Divergence& of, bool each_element) {
  return {.name = of.kernel,
          .source = "loss/" + of.name + ".h",
          .when = [each_element](const Call& call) { return each(call) == each_element; },
          .spec = [of](const Call& call) -> Spec {
            const double number = of.limits ? call.real(of.number) : 0.5;
            return {{"input", call["input"].dtype},
                    {"width", call["input"].last_size()},
                    {"align_bytes", int64_t{call.align_bytes()}},
                    {"log_target", !of.log_target.empty() && call.flag(of.log_target)},
                    {"at_zero", number == 0.0},
                    {"at_one", number == 1.0},
                    {"has_labels", labelled(call)},
                    {"counted", counts_on_device(call)},
                    {"each", each(call)},
                    {"with_gradient", call.flag("with_gradient")},
                    {"unit", static_cast<int64_t>(unit(call))}};
          },
          .candidates = candidates,
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(pieces(call), knobs); },
          .arguments = {"input",
                        "target",
                        {"labels", of.has_labels ? Source("labels") : Source(none)},
                        "totals",
                        {"loss", each_element ? "loss" : "of_pieces"},
                        "dinput",
                        {"rows", "input.rows"},
                        {"input_stride", "input.stride"},
                        {"target_stride", "target.stride"},
                        {"ignore_index", of.has_labels ? Source("ignore_index") : Source(none)},
                        {"divisor", divisor},
                        {"number", of.number.empty() ? Source(none) : Source(of.number)}}};
}

KernelOf sum_kernel() {
  return {.name = "DivergenceSum",
          .source = "loss/divergence.h",
          .when = [](const Call& call) { return !each(call); },
          .spec = [](const Call& call) -> Spec {
            return {{"arithmetic", loss_dtype(call)}, {"counted", counts_on_device(call)}};
          },
          .candidates = one_block_candidates,
          .blocks = [](const Call&, const Knobs&) { return int64_t{1}; },
          .threads = [](const Knobs& knobs) { return value_of(knobs, "threads", 1); },
          .arguments = {"of_pieces", "totals", "loss", {"pieces", pieces}, {"divisor", divisor}}};
}

std::vector<Input> inputs_of(const Divergence& of) {
  std::vector<Input> inputs = {rows("input"), rows("target")};
  if (of.has_labels) inputs.push_back(optional(dense("labels", {Dtype::i64})));
  inputs.push_back(choice("reduction", {"none", "mean", "sum", "batchmean"}, of.reduction));
  if (of.has_labels) inputs.push_back(integer("ignore_index", -100));
  inputs.insert(inputs.end(), of.options.begin(), of.options.end());
  inputs.push_back(flag("with_gradient"));
  return inputs;
}

void check(const Divergence& of, const Call& call) {
  require_dims(call, "input", 2, "[rows, classes]");
  require_same_shape(call, "input", "target");
  require_same_dtype(call, "input", "target");
  if (labelled(call) && call["labels"].count() != call["input"].rows()) {
    call.refuse("labels", "has shape " + shape_text(call["labels"]),
                "[" + std::to_string(call["input"].rows()) + "], one label a row");
  }
  if (of.check) of.check(call);
}

}  // namespace

Op divergence_op(const Divergence& of) {
  return {
      .name = of.name,
      .doc = of.doc,
      .inputs = inputs_of(of),
      .outputs = {{"loss", [](const Call& call) { return each(call) ? like("input") : scalar(); },
                   loss_dtype},
                  {"dinput",
                   [](const Call& call) {
                     return call.flag("with_gradient") ? like("input") : empty();
                   },
                   [](const Call& call) { return call["input"].dtype; }, false}},
      .temporaries = {{"totals",
                       [](const Call& call) -> int64_t {
                         return counts_on_device(call) ? 3 * size_bytes(loss_dtype(call)) : 0;
                       }},
                      {"of_pieces",
                       [](const Call& call) -> int64_t {
                         return each(call) ? 0 : pieces(call) * size_bytes(loss_dtype(call));
                       }}},
      .check = [of](const Call& call) { check(of, call); },
      .kernels = {count_kernel(), rows_kernel(of, false), rows_kernel(of, true), sum_kernel()},
      .gradient = {.of = {{"input", "dinput"}}, .needs_grad_flag = "with_gradient", .unit = unit},
      .example = [of](const Extent& e) -> std::vector<Sample> {
        std::vector<Sample> samples = {{.input = "input", .shape = {e["rows"], e["size"]}},
                                       {.input = "target",
                                        .shape = {e["rows"], e["size"]},
                                        .probabilities = of.target_is_probabilities}};
        if (of.has_labels) samples.push_back({.input = "labels", .none = true});
        return samples;
      },
      .bench = {{"vocabulary-32768", {{"rows", 8192}, {"size", 32768}}, Dtype::f32},
                {"vocabulary-32768-bf16", {{"rows", 8192}, {"size", 32768}}},
                {"vocabulary-128256", {{"rows", 4096}, {"size", 128256}}}},
  };
}

}  // namespace liger
