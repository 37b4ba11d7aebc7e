#include "ops/linear_loss/distillation.h"

#include <cmath>

#include "base/text.h"
#include "engine/registry.h"
#include "ops/loss/cross_entropy.h"
#include "ops/loss/log_probs.h"
#include "ops/resident_rows.h"

namespace liger {

std::vector<Input> distillation_options() {
  return {choice("divergence", {"jsd", "tvd", "cosine"}, "jsd"),
          real("beta", "0.5"),
          real("weight_hard_loss", "0.5"),
          real("weight_soft_loss", "0.5"),
          real("temperature", "1.0"),
          integer("ignore_index", -100)};
}

void check_distillation(const Call& call) {
  if (const double beta = call.real("beta"); !(beta >= 0.0 && beta <= 1.0))
    call.refuse("beta", fmt::format("is {}", beta), "0 to 1");
  if (const double t = call.real("temperature"); !(t > 0.0))
    call.refuse("temperature", fmt::format("is {}", t), "a positive number");
  for (const std::string_view name : {"weight_hard_loss", "weight_soft_loss"}) {
    if (const double weight = call.real(name); !std::isfinite(weight))
      call.refuse(name, fmt::format("is {}", weight), "a finite number");
  }
}

namespace {

Distance distance(const Call& call) { return static_cast<Distance>(call.integer("divergence")); }

Spec spec(const Call& call) {
  const RereadRows rows(call, {"logits", "teacher"}, "", false);
  const double beta = distance(call) == Distance::jsd ? call.real("beta") : 0.5;
  const double unit = gradient_unit(call["logits"].dtype, Reduction::mean);
  return {{"logits", call["logits"].dtype},
          {"classes", call["logits"].last_size()},
          {"align_bytes", rows.align_bytes()},
          {"tvd", distance(call) == Distance::tvd},
          {"cosine", distance(call) == Distance::cosine},
          {"at_zero", beta == 0.0},
          {"at_one", beta == 1.0},
          {"tempered", call.real("temperature") != 1.0},
          {"has_labels", call.has("target")},
          {"hard", call.has("hard_loss")},
          {"with_gradient", call.flag("with_gradient")},
          {"known", call.has("statistics") && call.has("teacher_statistics")},
          {"unit", static_cast<int64_t>(unit)},
          {"held", rows.resident()}};
}

void check(const Call& call) {
  require_same_shape(call, "logits", "teacher");
  require_same_dtype(call, "logits", "teacher");
  const int64_t rows = call["logits"].rows();
  for (const std::string_view name : {"target", "soft_loss", "hard_loss"}) {
    if (call.has(name) && call[name].count() != rows)
      call.refuse(name, "has shape " + shape_text(call[name]), fmt::format("[{}]", rows));
  }
  for (const std::string_view name : {"statistics", "teacher_statistics"}) {
    if (call.has(name) && call[name].count() != rows * log_prob_statistics)
      call.refuse(name, "has shape " + shape_text(call[name]),
                  fmt::format("[{}, {}]", rows, log_prob_statistics));
  }
  if (call.has("hard_loss") && !call.has("target"))
    call.refuse("target", "is None", "one label a row, for the hard loss");
  check_distillation(call);
}

Op chunk_op() {
  Op op;
  op.name = "distillation_chunk_";
  op.doc =
      "soft and hard loss of each row of a chunk of a student's logits and a teacher's; the "
      "gradient overwrites the student's";
  op.internal = true;
  op.inputs = {written(rows("logits")),
               rows("teacher"),
               optional(dense("target", {Dtype::i64})),
               dense("share"),
               written(dense("soft_loss")),
               optional(written(dense("hard_loss"))),
               optional(dense("places", {Dtype::i64})),
               optional(dense("statistics")),
               optional(dense("teacher_statistics")),
               integer("first_row", 0)};
  for (Input& option : distillation_options()) op.inputs.push_back(std::move(option));
  op.inputs.push_back(flag("with_gradient"));
  op.check = check;
  op.kernels = {reread_kernel({.name = "DistillationRows",
                               .source = "loss/distillation.h",
                               .spec = spec,
                               .arguments = {{"student", "logits"},
                                             "teacher",
                                             {"labels", "target"},
                                             "share",
                                             "soft_loss",
                                             "hard_loss",
                                             {"fault", FaultOf{"target", "ignore_index", "places"}},
                                             "statistics",
                                             "teacher_statistics",
                                             {"rows", "logits.rows"},
                                             {"student_stride", "logits.stride"},
                                             {"teacher_stride", "teacher.stride"},
                                             "first_row",
                                             "ignore_index",
                                             {"number", "beta"},
                                             "temperature",
                                             {"weight_soft", "weight_soft_loss"},
                                             {"weight_hard", "weight_hard_loss"}}},
                              {"logits", "teacher"}, "", 64, false)};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    return {{.input = "logits", .shape = {e["rows"], e["size"]}},
            {.input = "teacher", .shape = {e["rows"], e["size"]}},
            {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]},
            {.input = "share", .shape = {}, .dtype = "arithmetic"},
            {.input = "soft_loss", .shape = {e["rows"]}, .dtype = "arithmetic"},
            {.input = "hard_loss", .shape = {e["rows"]}, .dtype = "arithmetic"},
            {.input = "first_row", .value = 0},
            {.input = "with_gradient", .value = 1}};
  };
  return op;
}

const Register chunk{chunk_op()};

}  // namespace
}  // namespace liger
