#include <algorithm>

#include "engine/registry.h"
#include "ops/experts/experts.h"
#include "ops/experts/grouped.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

int64_t width_of(const Call& call) { return call["product"].last_size(); }
// Of the tensor that a call shrinks by: a trial of fewer rows has as many pairs.
int64_t pairs_of(const Call& call) { return call["product"].rows(); }

// Of rows of so many elements that lie side by side, whatever else the call is aligned to.
int64_t align_of(const Call& call, int64_t size) {
  const int64_t bytes = size * size_bytes(call["product"].dtype);
  return std::min<int64_t>(call.align_bytes(), bytes == 0 ? 16 : bytes & -bytes);
}

Spec spec_of(const Call& call) {
  return {{"gate", expert_gate_spec(call, call["product"].dtype)},
          {"packing", int64_t{call.flag("interleaved") ? 2 : 1}},
          {"weight", call["weights"].dtype},
          {"index", call["indices"].dtype},
          {"product", call.flag("want_product")},
          {"dgate_up", call.has("dgate_up")},
          {"dweights", call.has("dweights")},
          {"biased", call.has("bias")},
          {"width", width_of(call)},
          {"down_width", call["dy"].last_size()},
          {"align_bytes", align_of(call, width_of(call))},
          {"down_align_bytes", align_of(call, call["dy"].last_size())}};
}

void check(const Call& call) {
  require_routing(call);
  require_pairs(call, "order");
  require_same_shape(call, "indices", "weights");
  if (call.has("dweights")) {
    require_same_shape(call, "weights", "dweights");
    require_same_dtype(call, "weights", "dweights");
  }
  for (const char* name : {"gate_up", "dgate_up", "dy", "bias"}) {
    if (call.has(name)) require_same_dtype(call, "product", name);
  }
  for (const char* name : {"gate_up", "dgate_up"}) {
    if (call.has(name) && call[name].last_size() != 2 * width_of(call))
      call.refuse(name, "has shape " + shape_text(call[name]),
                  "[pairs, " + std::to_string(2 * width_of(call)) + "], twice those of 'product'");
  }
  if (call.has("bias")) require_expert_rows(call, "bias", call["dy"].last_size());
  check_expert_gate(call);
}

KernelOf kernel() {
  return {.name = "ExpertsMiddle",
          .source = "experts/middle.h",
          .when = [](const Call& call) { return pairs_of(call) > 0; },
          .spec = spec_of,
          .candidates =
              [](const Call& call) {
                const int64_t columns = call.has("bias")
                                            ? std::max(width_of(call), call["dy"].last_size())
                                            : width_of(call);
                return row_candidates(call, columns, 0);
              },
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(pairs_of(call), knobs); },
          .arguments = {"product",
                        "gate_up",
                        "dgate_up",
                        "weights",
                        "dweights",
                        "indices",
                        "order",
                        "dy",
                        "bias",
                        {"pairs", pairs_of},
                        "num_experts",
                        {"slots", "indices.size1"},
                        {"product_stride", "product.stride"},
                        {"gate_up_stride", "gate_up.stride"},
                        {"dgate_up_stride", "dgate_up.stride"},
                        {"dy_stride", "dy.stride"},
                        {"bias_stride", "bias.stride"},
                        "alpha",
                        "limit"}};
}

// The kernel between the products; it writes into buffers of the composite.
Op middle() {
  Op op;
  op.name = "experts_middle_";
  op.doc =
      "from product = dy @ down of each pair the gradients of gate and up and of the routing "
      "weights; weight * act(gate, up) overwrites it";
  op.internal = true;
  op.inputs = {written(rows("product")),
               rows("gate_up"),
               written(optional(rows("dgate_up"))),
               dense("weights"),
               written(optional(dense("dweights"))),
               dense("indices", {Dtype::i64, Dtype::i32}),
               dense("order", {Dtype::i32}),
               rows("dy"),
               optional(rows("bias")),
               integer("num_experts", 1)};
  for (Input& option : expert_gate_options()) op.inputs.push_back(std::move(option));
  op.inputs.push_back(flag("want_product"));
  op.check = check;
  op.kernels = {kernel()};
  op.example = [](const Extent& e) -> std::vector<Sample> {
    const int64_t pairs = e["rows"] * e["slots"];
    return {{.input = "product", .shape = {pairs, e["size"]}},
            {.input = "gate_up", .shape = {pairs, 2 * e["size"]}},
            {.input = "dgate_up", .shape = {pairs, 2 * e["size"]}},
            {.input = "weights", .shape = {e["rows"], e["slots"]}},
            {.input = "dweights", .none = true},  // 'order' is no permutation here
            routed_sample(e),
            pairs_sample("order", e, pairs),
            {.input = "dy", .shape = {e["rows"], e["inner"]}},
            {.input = "bias", .shape = {e["num_experts"], e["inner"]}},
            {.input = "num_experts", .value = static_cast<double>(e["num_experts"])},
            {.input = "want_product", .value = 1}};
  };
  op.sizes = expert_sizes();
  return op;
}

const Register registered{middle()};

}  // namespace
}  // namespace liger
