#include <algorithm>

#include "engine/registry.h"
#include "ops/loss/log_probs.h"
#include "ops/resident_rows.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t numbers_of_part = 4;  // as the template has them

Dtype logits_arithmetic(const Call& call) { return arithmetic(call["logits"].dtype); }
int64_t classes(const Call& call) { return call["logits"].last_size(); }
int64_t first_class(const Call& call) { return call.integer("rank") * classes(call); }
int64_t all_classes(const Call& call) { return call.integer("ranks") * classes(call); }
bool own_classes(const Call& call) { return call.integer("label_smoothing_mode") == 1; }
bool without_label(const Call& call) { return call.integer("label_smoothing_formula") == 1; }
bool smooths(const Call& call) { return call.real("label_smoothing") != 0.0; }
int64_t averaged_classes(const Call& call) {
  return own_classes(call) ? classes(call) : all_classes(call);
}

std::vector<Input> with_options(std::vector<Input> inputs) {
  inputs.insert(inputs.end(),
                {integer("rank", 0), integer("ranks", 1), integer("ignore_index", -100),
                 real("label_smoothing", "0.0"),
                 choice("label_smoothing_formula", {"pytorch", "megatron"}, "pytorch"),
                 choice("label_smoothing_mode", {"global", "partition"}, "global")});
  return inputs;
}

void check_rows(const Call& call) {
  require_dims(call, "logits", 2, "[rows, classes of this rank]");
  if (call["target"].dims != 1 || call["target"].count() != call["logits"].rows()) {
    call.refuse("target", "has shape " + shape_text(call["target"]),
                "[" + std::to_string(call["logits"].rows()) + "], one label a row");
  }
}

void check_loss(const Call& call) {
  check_rows(call);
  check_ranks(call);
  if (const double e = call.real("label_smoothing"); !(e >= 0.0 && e < 1.0))
    call.refuse("label_smoothing", "is " + std::to_string(e), "0 to less than 1");
  if (smooths(call) && without_label(call) && averaged_classes(call) < 2) {
    call.refuse("logits", "has shape " + shape_text(call["logits"]),
                "two classes or more with label_smoothing_formula \"megatron\"");
  }
}

void check_forward(const Call& call) {
  check_loss(call);
  const int64_t ranks = call.integer("ranks");
  const Tensor& statistics = call["statistics"];
  const std::string allowed =
      "[" + std::to_string(ranks) + ", " + std::to_string(call["logits"].rows()) + ", " +
      std::to_string(numbers_of_part) + "] " + std::string(name_of(logits_arithmetic(call)));
  if (!statistics.defined) {
    if (ranks > 1) call.refuse("statistics", "is None", allowed + ", what each rank knows");
    return;
  }
  if (statistics.dims != 3 || statistics.sizes[0] != ranks ||
      statistics.sizes[1] != call["logits"].rows() || statistics.sizes[2] != numbers_of_part ||
      statistics.dtype != logits_arithmetic(call)) {
    call.refuse("statistics", "has shape " + shape_text(statistics), allowed);
  }
}

// How rows lie in memory, for the kernel that may hold them.
ResidentRows shape_of(const Call& call, bool smoothing) {
  const Tensor& logits = call["logits"];
  return {.place = call.place(),
          .size = logits.last_size(),
          .element_bytes = size_bytes(logits.dtype),
          .shifted = logits.row_align_bytes() < 16,
          .may_keep = !smoothing};
}

bool held(const Call& call, bool smoothing) {
  return !call.on_host() && !resident_row_candidates(shape_of(call, smoothing)).empty();
}

std::vector<Knobs> statistics_candidates(const Call& call, bool smoothing) {
  const auto streamed = [](int64_t threads, int64_t rows) -> Knobs {
    return {{"threads", threads}, {"rows", rows}, {"cluster", 1}, {"kept", 0}};
  };
  if (call.on_host()) return {streamed(1, 1), streamed(1, 4)};
  if (held(call, smoothing)) return resident_row_candidates(shape_of(call, smoothing));
  if (classes(call) > 8192) return {streamed(512, 1), streamed(1024, 1), streamed(256, 1)};
  return {streamed(128, 1), streamed(256, 1), streamed(64, 1)};
}

KernelOf statistics_kernel(std::string statistics, std::function<bool(const Call&)> when,
                           std::function<bool(const Call&)> smoothing) {
  return {
      .name = "VocabParallelStatistics",
      .source = "loss/vocab_parallel_cross_entropy.h",
      .when = std::move(when),
      .spec = [smoothing](const Call& call) -> Spec {
        const bool holds = held(call, smoothing(call));
        // A row that is held may start anywhere (0): its loads are aligned down.
        const int64_t align = call.on_host() ? 2 : call["logits"].row_align_bytes();
        return {{"logits", call["logits"].dtype},
                {"classes", classes(call)},
                {"align_bytes", holds && align < 16 ? 0 : align},
                {"smoothing", smoothing(call)},
                {"held", holds}};
      },
      .candidates =
          [smoothing](const Call& call) { return statistics_candidates(call, smoothing(call)); },
      .blocks =
          [](const Call& call, const Knobs& knobs) {
            return row_blocks(call["logits"].rows(), knobs) * value_of(knobs, "cluster", 1);
          },
      .shared_bytes =
          [smoothing](const Call& call, const Knobs& knobs) {
            const bool smooth = smoothing(call);
            return held(call, smooth) ? resident_row_shared_bytes(shape_of(call, smooth), knobs)
                                      : 0;
          },
      .arguments = {"logits",
                    "target",
                    {"statistics", std::move(statistics)},
                    {"rows", "logits.rows"},
                    {"logits_stride", "logits.stride"},
                    {"first_class", first_class},
                    "ignore_index"}};
}

KernelOf loss_kernel(std::string statistics, std::function<bool(const Call&)> when) {
  return {.name = "VocabParallelLoss",
          .source = "loss/vocab_parallel_cross_entropy.h",
          .when = std::move(when),
          .spec = [](const Call& call) -> Spec {
            return {{"arithmetic", logits_arithmetic(call)},
                    {"smoothing", smooths(call)},
                    {"without_label", without_label(call)},
                    {"own_classes", own_classes(call)}};
          },
          .candidates = [](const Call& call) -> std::vector<Knobs> {
            return {{{"threads", 1}, {"rows", call.on_host() ? 256 : 128}}};
          },
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(call["logits"].rows(), knobs); },
          .arguments = {{"statistics", std::move(statistics)},
                        "target",
                        "loss",
                        "whole",
                        {"fault", FaultOf{"target", "ignore_index"}},
                        {"rows", "logits.rows"},
                        "rank",
                        "ranks",
                        {"classes", classes},
                        "ignore_index",
                        "label_smoothing"}};
}

bool alone(const Call& call) { return !call.has("statistics"); }
bool together(const Call& call) { return call.has("statistics"); }

Op loss_op() {
  Op op;
  op.name = "vocab_parallel_cross_entropy";
  op.doc =
      "cross entropy of each row of logits whose classes are spread over ranks, from what "
      "vocab_parallel_statistics has told of all ranks' parts; without that the one rank has all";
  op.inputs = with_options({rows("logits"), dense("target", {Dtype::i64}),
                            optional(dense("statistics", {Dtype::f32, Dtype::f64}))});
  op.outputs = {{"loss", [](const Call&) { return rows_of("logits"); }, logits_arithmetic},
                {"whole", [](const Call&) { return followed_by(rows_of("logits"), {2}); },
                 logits_arithmetic, false}};
  op.temporaries = {{"own_statistics", [](const Call& call) -> int64_t {
                       if (together(call)) return 0;
                       return call["logits"].rows() * numbers_of_part *
                              size_bytes(logits_arithmetic(call));
                     }}};
  op.check = check_forward;
  op.kernels = {statistics_kernel("own_statistics", alone, smooths),
                loss_kernel("own_statistics", alone), loss_kernel("statistics", together)};
  op.gradient = {.backward = "vocab_parallel_cross_entropy_backward",
                 .saved = {"logits", "target", "whole"},
                 .of = {{"logits", "dlogits"}}};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {{.input = "logits", .shape = {e["rows"], e["size"]}},
            {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
            {.input = "statistics", .none = true}};
  };
  op.bench = {{"vocabulary-16032", {{"rows", 16384}, {"size", 16032}}},
              {"vocabulary-64128", {{"rows", 8192}, {"size", 64128}}}};
  return op;
}

Op statistics_op() {
  Op op;
  op.name = "vocab_parallel_statistics";
  op.doc =
      "of each row of this rank's logits: maximum, sum of exponentials, the label's score if it "
      "is here, and for smoothing the sum of distances from the maximum";
  op.internal = true;
  op.inputs = {rows("logits"), dense("target", {Dtype::i64}), integer("rank", 0),
               integer("ignore_index", -100), flag("smoothing")};
  op.outputs = {{"statistics",
                 [](const Call&) { return followed_by(rows_of("logits"), {numbers_of_part}); },
                 logits_arithmetic, false}};
  op.check = check_rows;
  op.kernels = {
      statistics_kernel("statistics", {}, [](const Call& call) { return call.flag("smoothing"); })};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {{.input = "logits", .shape = {e["rows"], e["size"]}},
            {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
            {.input = "smoothing", .value = 1}};
  };
  return op;
}

Op backward_op() {
  Op op;
  op.name = "vocab_parallel_cross_entropy_backward";
  op.doc =
      "dlogits = dloss * (softmax - what the label and smoothing take off), of this rank's part";
  op.internal = true;
  op.inputs =
      with_options({dense("dloss", {Dtype::f32, Dtype::f64}), rows("logits"),
                    dense("target", {Dtype::i64}), dense("whole", {Dtype::f32, Dtype::f64})});
  op.inputs.push_back(mask("output_mask", 1));
  op.outputs = {{"dlogits", [](const Call&) { return like("logits"); },
                 [](const Call& call) { return call["logits"].dtype; }}};
  op.check = [](const Call& call) {
    check_loss(call);
    const std::string rows_text = std::to_string(call["logits"].rows());
    for (const auto& [name, numbers] : {std::pair{"dloss", 1}, {"whole", 2}}) {
      const Tensor& tensor = call[name];
      if (tensor.count() == numbers * call["logits"].rows() &&
          tensor.dtype == logits_arithmetic(call))
        continue;
      call.refuse(name, "has shape " + shape_text(tensor),
                  std::to_string(numbers) + " " + std::string(name_of(logits_arithmetic(call))) +
                      " for each of the " + rows_text + " rows");
    }
  };
  op.kernels = {
      {.name = "VocabParallelGradient",
       .source = "loss/vocab_parallel_cross_entropy.h",
       .spec = [](const Call& call) -> Spec {
         const Tensor& logits = call["logits"];
         const int64_t row_bytes = logits.last_size() * size_bytes(logits.dtype);
         // The numbers of a row need no vectors, so they do not count.
         const int64_t align =
             std::min<int64_t>({logits.row_align_bytes(), 16, row_bytes & -row_bytes});
         return {{"logits", logits.dtype},
                 {"classes", logits.last_size()},
                 {"align_bytes", call.on_host() ? 2 : align},
                 {"smoothing", smooths(call)},
                 {"without_label", without_label(call)}};
       },
       .candidates = [](const Call& call) { return row_candidates(call, classes(call), 0); },
       .blocks = [](const Call& call,
                    const Knobs& knobs) { return row_blocks(call["logits"].rows(), knobs); },
       .arguments = {"dloss",
                     "logits",
                     "target",
                     "whole",
                     "dlogits",
                     {"rows", "logits.rows"},
                     {"logits_stride", "logits.stride"},
                     {"first_class", first_class},
                     {"all_classes", all_classes},
                     {"averaged_classes", averaged_classes},
                     "ignore_index",
                     "label_smoothing"}}};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {{.input = "dloss", .shape = {e["rows"]}, .dtype = "arithmetic"},
            {.input = "logits", .shape = {e["rows"], e["size"]}},
            {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
            {.input = "whole", .shape = {e["rows"], 2}, .dtype = "arithmetic"},
            {.input = "rank", .value = 0},
            {.input = "ranks", .value = 1},
            {.input = "ignore_index", .value = -100},
            {.input = "label_smoothing", .value = 0},
            {.input = "label_smoothing_formula", .value = 0},
            {.input = "label_smoothing_mode", .value = 0},
            {.input = "output_mask", .value = 1}};
  };
  return op;
}

const Register loss{loss_op()};
const Register statistics{statistics_op()};
const Register backward{backward_op()};

}  // namespace
}  // namespace liger
