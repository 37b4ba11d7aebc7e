#include "engine/registry.h"
#include "ops/mlp/gated_mlp.h"

namespace liger {
namespace {

Dtype x_dtype(const Call& call) { return call["x"].dtype; }

template <class Item>
std::vector<Item> joined(std::initializer_list<std::vector<Item>> lists) {
  std::vector<Item> all;
  for (const std::vector<Item>& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

// 0: as many as give each at most as many rows as x has columns.
Input shards() { return integer("shards", 0); }

void check_tiled(const Call& call) {
  check_mlp(call);
  const int64_t shards = call.integer("shards");
  if (shards < 0) call.refuse("shards", "is " + std::to_string(shards), "0 or more");
}

const Register forward{Op{
    .name = "tiled_mlp",
    .doc = "gated_mlp by shards of the rows; keeps x alone, and the backward makes each shard's "
           "gate and up anew",
    .inputs = joined<Input>({mlp_inputs(), mlp_gate_options(), {shards()}}),
    .outputs = {{"y", [](const Call&) { return linear("x", "down_weight"); }, x_dtype}},
    .check = check_tiled,
    .gradient = {.backward = "tiled_mlp_backward",
                 .saved = {"x", "gate_weight", "up_weight", "down_weight"},
                 .of = {{"x", "dx"},
                        {"gate_weight", "dgate_weight"},
                        {"up_weight", "dup_weight"},
                        {"down_weight", "ddown_weight"}}},
    .autocast = Autocast::lower,
    .autocast_inputs = {"x", "gate_weight", "up_weight", "down_weight"},
    .example = mlp_example,
}};

const Register backward{Op{
    .name = "tiled_mlp_backward",
    .doc = "gradients of tiled_mlp, of those that are wanted; those of weights are summed over "
           "shards in float32",
    .internal = true,
    .inputs = joined<Input>(
        {{dense("dy")}, mlp_inputs(), mlp_gate_options(), {shards(), mask("output_mask", 4)}}),
    .outputs = mlp_gradients(),
    .check = check_tiled,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return joined<Sample>(
          {{{.input = "dy", .shape = {e["rows"], e["inner"]}}},
           mlp_example(e),
           mlp_gate_samples(),
           {{.input = "shards", .value = 2}, {.input = "output_mask", .value = 15}}});
    },
}};

}  // namespace
}  // namespace liger
