#include "engine/registry.h"
#include "ops/resident_rows.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

const std::vector<std::string> statistics = {"student_max", "student_sum", "teacher_max",
                                             "teacher_sum", "sigma"};

Dtype loss_dtype(const Call& call) { return arithmetic(call["student"].dtype); }

void check(const Call& call) {
  require_dims(call, "student", 2, "[rows, classes]");
  require_same_shape(call, "student", "teacher");
  require_same_dtype(call, "student", "teacher");
  if (call["target"].count() != call["student"].rows()) {
    call.refuse("target", "has shape " + shape_text(call["target"]),
                "[" + std::to_string(call["student"].rows()) + "], one label a row");
  }
}

std::vector<Output> outputs() {
  std::vector<Output> list = {
      {"ce", [](const Call&) { return rows_of("student"); }, loss_dtype},
      {"distance", [](const Call&) { return rows_of("student"); }, loss_dtype}};
  for (const std::string& name : statistics) {
    list.push_back({name,
                    [](const Call& call) {
                      return call.flag("keep_statistics") ? rows_of("student") : empty();
                    },
                    loss_dtype, false});
  }
  return list;
}

std::vector<Argument> with_statistics(std::vector<Argument> before, std::vector<Argument> after) {
  for (const std::string& name : statistics) before.emplace_back(name.c_str());
  before.insert(before.end(), after.begin(), after.end());
  return before;
}

const std::vector<std::string_view> both = {"student", "teacher"};

const Register ce_tvd{Op{
    .name = "ce_tvd",
    .doc = "cross entropy of rows of a student's logits, and the total variation distance of their "
           "softmax from that of a teacher's",
    .inputs = {rows("student"), rows("teacher"), dense("target", {Dtype::i64}),
               integer("ignore_index", -100), flag("keep_statistics")},
    .outputs = outputs(),
    .check = check,
    .kernels = {reread_kernel(
        {.name = "CeTvdForward",
         .source = "loss/ce_tvd.h",
         .spec = [](const Call& call) -> Spec {
           const RereadRows rows(call, both, "", false);
           return {{"logits", call["student"].dtype},
                   {"classes", call["student"].last_size()},
                   {"align_bytes", rows.align_bytes()},
                   {"held", rows.resident()}};
         },
         .arguments = with_statistics({"student", "teacher", "target", "ce", "distance"},
                                      {{"fault", FaultOf{"target", "ignore_index"}},
                                       {"rows", "student.rows"},
                                       {"student_stride", "student.stride"},
                                       {"teacher_stride", "teacher.stride"},
                                       "ignore_index"})},
        both, "", 32, false)},
    .gradient = {.backward = "ce_tvd_backward",
                 .saved = {"student", "teacher", "target", "student_max", "student_sum",
                           "teacher_max", "teacher_sum", "sigma"},
                 .of = {{"student", "dstudent"}},
                 .needs_grad_flag = "keep_statistics"},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "student", .shape = {e["rows"], e["size"]}},
              {.input = "teacher", .shape = {e["rows"], e["size"]}},
              {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]}};
    },
    .bench = {{"vocabulary-32768", {{"rows", 8192}, {"size", 32768}}},
              {"vocabulary-128256", {{"rows", 4096}, {"size", 128256}}}},
}};

std::vector<Input> backward_inputs() {
  std::vector<Input> inputs = {dense("dce"), dense("dtvd"), rows("student"), rows("teacher"),
                               dense("target", {Dtype::i64})};
  for (const std::string& name : statistics) inputs.push_back(dense(name));
  inputs.push_back(integer("ignore_index", -100));
  inputs.push_back(mask("output_mask", 1));
  return inputs;
}

const Register ce_tvd_backward{Op{
    .name = "ce_tvd_backward",
    .doc = "gradient of both losses in the student's logits",
    .internal = true,
    .inputs = backward_inputs(),
    .outputs = {{"dstudent", [](const Call&) { return like("student"); },
                 [](const Call& call) { return call["student"].dtype; }}},
    .check =
        [](const Call& call) {
          check(call);
          for (const std::string& name : statistics) {
            if (call[name].count() == call["student"].rows()) continue;
            call.refuse(name, "has shape " + shape_text(call[name]),
                        "one number a row, which the forward keeps where it is asked to");
          }
        },
    .kernels =
        {{.name = "CeTvdBackward",
          .source = "loss/ce_tvd.h",
          .spec = [](const Call& call) -> Spec {
            return {{"logits", call["student"].dtype},
                    {"classes", call["student"].last_size()},
                    {"align_bytes", int64_t{call.align_bytes()}}};
          },
          .candidates =
              [](const Call& call) { return row_candidates(call, call["student"].last_size(), 0); },
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(call["student"].rows(), knobs); },
          .arguments = with_statistics({"dce", "dtvd", "student", "teacher", "target"},
                                       {"dstudent",
                                        {"rows", "student.rows"},
                                        {"student_stride", "student.stride"},
                                        {"teacher_stride", "teacher.stride"},
                                        "ignore_index"})}},
    .example = [](const Extent& e) -> std::vector<Sample> {
      std::vector<Sample> samples = {
          {.input = "dce", .shape = {e["rows"]}, .dtype = "arithmetic"},
          {.input = "dtvd", .shape = {e["rows"]}, .dtype = "arithmetic"},
          {.input = "student", .shape = {e["rows"], e["size"]}},
          {.input = "teacher", .shape = {e["rows"], e["size"]}},
          {.input = "target", .shape = {e["rows"]}, .dtype = "i64", .below = e["size"]}};
      for (const std::string& name : statistics)
        samples.push_back({.input = name, .shape = {e["rows"]}, .dtype = "arithmetic"});
      samples.push_back({.input = "ignore_index", .value = -100});
      samples.push_back({.input = "output_mask", .value = 1});
      return samples;
    },
}};

}  // namespace
}  // namespace liger
