#include "base/parts.h"
#include "engine/registry.h"
#include "ops/experts/grouped.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t segment_rows = 128;

int64_t width_of(const Call& call) { return call["x"].last_size(); }
int64_t experts_of(const Call& call) { return call["ends"].count(); }
// Of the tensor that a call shrinks by, where each place has a row: a trial of fewer rows has as
// many places.
int64_t places_of(const Call& call) {
  return call.has("weights") ? call["order"].count() : call["x"].rows();
}
int64_t segments_of(const Call& call) {
  return parts(places_of(call), segment_rows) + experts_of(call) + 1;
}

// Blocks that share the columns of a row.
int64_t tiles_of(const Call& call, const Knobs& knobs) {
  if (call.on_host()) return 1;
  return parts(packs_of(width_of(call)), value_of(knobs, "threads", 1));
}

std::vector<Knobs> threads(const Call& call) { return {{{"threads", call.on_host() ? 1 : 64}}}; }
int64_t threads_of(const Knobs& knobs) { return value_of(knobs, "threads", 1); }

KernelOf segments_kernel() {
  return {.name = "SegmentSums",
          .source = "experts/sum_by_expert.h",
          .spec = [](const Call& call) -> Spec {
            const bool weighted = call.has("weights");
            return {{"x", call["x"].dtype},
                    {"weight", call[weighted ? "weights" : "x"].dtype},
                    {"weighted", weighted},
                    {"slots", weighted ? call["weights"].last_size() : int64_t{1}},
                    {"width", width_of(call)},
                    {"segment_rows", segment_rows},
                    {"align_bytes", int64_t{call.align_bytes()}}};
          },
          .candidates = threads,
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return segments_of(call) * tiles_of(call, knobs); },
          .threads = threads_of,
          .arguments = {"x",
                        "weights",
                        "order",
                        "ends",
                        "partials",
                        {"num_experts", experts_of},
                        {"places", places_of},
                        {"x_stride", "x.stride"}}};
}

KernelOf experts_kernel() {
  return {.name = "ExpertSums",
          .source = "experts/sum_by_expert.h",
          .spec = [](const Call& call) -> Spec {
            return {{"y", call["x"].dtype},
                    {"width", width_of(call)},
                    {"segment_rows", segment_rows},
                    {"align_bytes", int64_t{call.align_bytes()}}};
          },
          .candidates = threads,
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return experts_of(call) * tiles_of(call, knobs); },
          .threads = threads_of,
          .arguments = {"partials", "ends", "y"}};
}

const Register sum_by_expert{Op{
    .name = "sum_by_expert",
    .doc = "y[e] = sum of the rows of expert e: those of x, which are in the order of experts, or "
           "with weights [tokens, slots] those of the tokens, each times the weight of its pair",
    .internal = true,
    .inputs = {rows("x"), optional(dense("weights")), dense("order", {Dtype::i32}),
               dense("ends", {Dtype::i32})},
    .outputs = {{"y",
                 [](const Call&) {
                   return sized({size_of("ends", 0), size_of("x", 1)});
                 },
                 [](const Call& call) { return call["x"].dtype; }, false}},
    .temporaries = {{"partials",
                     [](const Call& call) {
                       return segments_of(call) * padded_columns(width_of(call)) *
                              size_bytes(arithmetic(call["x"].dtype));
                     }}},
    .check =
        [](const Call& call) {
          require_dims(call, "x", 2, "[rows, size]");
          require_dims(call, "ends", 1, "[experts]");
          if (call.has("weights")) require_dims(call, "weights", 2, "[tokens, slots]");
        },
    .kernels = {segments_kernel(), experts_kernel()},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "weights", .shape = {e["rows"], e["slots"]}},
              pairs_sample("order", e, e["rows"] * e["slots"]),
              {.input = "ends", .shape = {e["num_experts"]}, .dtype = "i32", .below = 1}};
    },
    .sizes = expert_sizes(),
}};

}  // namespace
}  // namespace liger
