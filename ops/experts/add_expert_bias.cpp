#include "engine/registry.h"
#include "ops/experts/grouped.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

// Of the tensor that a call shrinks by: a trial of fewer rows has as many places.
int64_t places_of(const Call& call) { return call["x"].rows(); }

const Register add_expert_bias{Op{
    .name = "add_expert_bias_",
    .doc = "x[p] += bias[expert of place p]",
    .internal = true,
    .inputs = {written(rows("x")), rows("bias"), dense("indices", {Dtype::i64, Dtype::i32}),
               dense("order", {Dtype::i32}), integer("num_experts", 1)},
    .check =
        [](const Call& call) {
          require_routing(call);
          require_pairs(call, "order");
          require_dims(call, "x", 2, "[places, size]");
          require_same_dtype(call, "x", "bias");
          require_expert_rows(call, "bias", call["x"].last_size());
        },
    .kernels = {{.name = "AddExpertBias",
                 .source = "experts/add_bias.h",
                 .when = [](const Call& call) { return places_of(call) > 0; },
                 .spec = [](const Call& call) -> Spec {
                   return {{"x", call["x"].dtype},
                           {"index", call["indices"].dtype},
                           {"width", call["x"].last_size()},
                           {"align_bytes", int64_t{call.align_bytes()}}};
                 },
                 .candidates =
                     [](const Call& call) {
                       return row_candidates(call, call["x"].last_size(), 0);
                     },
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(places_of(call), knobs); },
                 .arguments = {"x",
                               "bias",
                               "indices",
                               "order",
                               {"places", places_of},
                               "num_experts",
                               {"x_stride", "x.stride"},
                               {"bias_stride", "bias.stride"}}}},
    .example = [](const Extent& e) -> std::vector<Sample> {
      const int64_t pairs = e["rows"] * e["slots"];
      return {{.input = "x", .shape = {pairs, e["size"]}},
              {.input = "bias", .shape = {e["num_experts"], e["size"]}},
              routed_sample(e),
              pairs_sample("order", e, pairs),
              {.input = "num_experts", .value = static_cast<double>(e["num_experts"])}};
    },
    .sizes = expert_sizes(),
}};

}  // namespace
}  // namespace liger
