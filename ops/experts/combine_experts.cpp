#include "engine/registry.h"
#include "ops/experts/grouped.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

int64_t tokens_of(const Call& call) { return call["indices"].rows(); }
Dtype dtype_or_x(const Call& call, const char* name) {
  return call[call.has(name) ? name : "x"].dtype;
}

void check(const Call& call) {
  require_routing(call);
  require_dims(call, "x", 2, "[places, size]");
  require_pairs(call, "places");
  if (call.has("weights")) require_same_shape(call, "indices", "weights");
  if (call.has("bias")) {
    require_same_dtype(call, "x", "bias");
    require_expert_rows(call, "bias", call["x"].last_size());
  }
}

const Register combine_experts{Op{
    .name = "combine_experts",
    .doc = "y[t] = sum over the experts j of token t of weights[t, j] * (x[places[t, j]] + "
           "bias[indices[t, j]]), in that order; without weights they are 1",
    .internal = true,
    .inputs = {rows("x"), dense("places", {Dtype::i32}), dense("indices", {Dtype::i64, Dtype::i32}),
               optional(dense("weights")), optional(rows("bias")), integer("num_experts", 1)},
    .outputs = {{"y",
                 [](const Call&) {
                   return sized({size_of("indices", 0), size_of("x", 1)});
                 },
                 [](const Call& call) { return call["x"].dtype; }, false}},
    .check = check,
    .kernels = {{.name = "CombineExperts",
                 .source = "experts/combine.h",
                 .when = [](const Call& call) { return tokens_of(call) > 0; },
                 .spec = [](const Call& call) -> Spec {
                   return {{"x", call["x"].dtype},
                           {"weight", dtype_or_x(call, "weights")},
                           {"index", call["indices"].dtype},
                           {"bias", dtype_or_x(call, "bias")},
                           {"weighted", call.has("weights")},
                           {"biased", call.has("bias")},
                           {"slots", call["indices"].last_size()},
                           {"width", call["x"].last_size()},
                           {"align_bytes", int64_t{call.align_bytes()}}};
                 },
                 .candidates =
                     [](const Call& call) {
                       return row_candidates(call, call["x"].last_size(), 0);
                     },
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(tokens_of(call), knobs); },
                 .arguments = {"x",
                               "places",
                               "indices",
                               "weights",
                               "bias",
                               "y",
                               {"tokens", tokens_of},
                               "num_experts",
                               {"x_stride", "x.stride"},
                               {"bias_stride", "bias.stride"}}}},
    .example = [](const Extent& e) -> std::vector<Sample> {
      const int64_t pairs = e["rows"] * e["slots"];
      return {{.input = "x", .shape = {pairs, e["size"]}},
              pairs_sample("places", e, pairs),
              routed_sample(e),
              {.input = "weights", .shape = {e["rows"], e["slots"]}},
              {.input = "bias", .shape = {e["num_experts"], e["size"]}},
              {.input = "num_experts", .value = static_cast<double>(e["num_experts"])}};
    },
    .sizes = expert_sizes(),
}};

}  // namespace
}  // namespace liger
