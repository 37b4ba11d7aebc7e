#include "ops/experts/experts.h"

#include "base/text.h"
#include "engine/registry.h"
#include "ops/experts/grouped.h"
#include "ops/gradient_output.h"
#include "ops/mlp/gated.h"

namespace liger {
namespace {

// The choices of 'activation': those of other gates, and gpt-oss's.
constexpr int64_t clamped_activation = 4;

std::vector<Input> tensors() {
  return {dense("x"),
          dense("indices", {Dtype::i64, Dtype::i32}),
          dense("weights"),
          dense("gate_up_weight"),
          dense("down_weight"),
          optional(dense("gate_up_bias")),
          optional(dense("down_bias"))};
}

std::vector<Input> options() {
  std::vector<Input> options = expert_gate_options();
  options.push_back(flag("transposed"));
  return options;
}

template <class Item>
void append(std::vector<Item>& list, std::vector<Item> more) {
  for (Item& one : more) list.push_back(std::move(one));
}

void require_weight(const Call& call, std::string_view weight, int64_t out, int64_t in) {
  const bool transposed = call.flag("transposed");
  const int64_t experts = call["gate_up_weight"].sizes[0];
  const Tensor& tensor = call[weight];
  if (tensor.sizes[0] == experts && tensor.sizes[transposed ? 2 : 1] == out &&
      tensor.sizes[transposed ? 1 : 2] == in)
    return;
  call.refuse(weight, "has shape " + shape_text(tensor),
              fmt::format("[{}, {}, {}]", experts, transposed ? in : out, transposed ? out : in));
}

void require_bias(const Call& call, std::string_view bias, int64_t size) {
  if (!call.has(bias)) return;
  require_same_dtype(call, "x", bias);
  const int64_t experts = call["gate_up_weight"].sizes[0];
  const Tensor& tensor = call[bias];
  if (tensor.dims == 2 && tensor.sizes[0] == experts && tensor.sizes[1] == size) return;
  call.refuse(bias, "has shape " + shape_text(tensor), fmt::format("[{}, {}]", experts, size));
}

void check(const Call& call) {
  require_dims(call, "x", 2, "[tokens, in]");
  require_routing(call);
  require_same_shape(call, "indices", "weights");
  if (call["indices"].sizes[0] != call["x"].sizes[0])
    call.refuse("indices", "has shape " + shape_text(call["indices"]),
                fmt::format("[{}, experts of a token], the tokens of 'x'", call["x"].sizes[0]));
  const bool transposed = call.flag("transposed");
  for (const char* weight : {"gate_up_weight", "down_weight"}) {
    require_dims(call, weight, 3,
                 transposed ? "[experts, in, out], transposed" : "[experts, out, in]");
    require_same_dtype(call, "x", weight);
  }
  require_same_arithmetic(call, "x", "weights");
  const Tensor& gate_up = call["gate_up_weight"];
  const int64_t both = gate_up.sizes[transposed ? 2 : 1];
  if (both % 2 != 0 || both == 0 || gate_up.sizes[0] == 0 || call["x"].last_size() == 0)
    call.refuse("gate_up_weight", "has shape " + shape_text(gate_up),
                "one expert or more, an even number of outputs, gate and up, and no size of 0");
  require_weight(call, "gate_up_weight", both, call["x"].last_size());
  const int64_t out = call["down_weight"].sizes[transposed ? 2 : 1];
  require_weight(call, "down_weight", out, both / 2);
  if (out == 0)
    call.refuse("down_weight", "has shape " + shape_text(call["down_weight"]), "no size of 0");
  require_bias(call, "gate_up_bias", both);
  require_bias(call, "down_bias", out);
  check_expert_gate(call);
}

Size pairs() { return size_of("indices", 0) * size_of("indices", 1); }
Size size_out_of(const Call& call, const char* weight) {
  return size_of(weight, call.flag("transposed") ? 2 : 1);
}
Dtype x_dtype(const Call& call) { return call["x"].dtype; }

// With weights of the size that models have: rows of them sum to one.
std::vector<Sample> samples(const Extent& e) {
  std::vector<Sample> list = {
      {.input = "x", .shape = {e["rows"], e["inner"]}},
      routed_sample(e),
      {.input = "weights", .shape = {e["rows"], e["slots"]}},
      {.input = "gate_up_weight", .shape = {e["num_experts"], 2 * e["size"], e["inner"]}},
      {.input = "down_weight", .shape = {e["num_experts"], e["inner"], e["size"]}},
      {.input = "gate_up_bias", .none = true},
      {.input = "down_bias", .none = true}};
  for (Sample& sample : list)
    sample.probabilities = sample.input.ends_with("weight") || sample.input == "weights";
  return list;
}

Op forward_op() {
  Op op;
  op.name = "experts";
  op.doc =
      "y[t] = sum over the experts e of token t of its weight * (act(gate, up) @ down[e].T + "
      "down_bias[e]), gate and up being the halves of x[t] @ gate_up[e].T + gate_up_bias[e], or "
      "its even and odd columns; keeps gate and up";
  op.inputs = tensors();
  append(op.inputs, options());
  op.outputs = {{"y",
                 [](const Call& call) {
                   return sized({size_of("x", 0), size_out_of(call, "down_weight")});
                 },
                 x_dtype},
                {"gate_up",
                 [](const Call& call) {
                   return sized({pairs(), size_out_of(call, "gate_up_weight")});
                 },
                 x_dtype, false}};
  op.check = check;
  op.gradient = {.backward = "experts_backward",
                 .donating_backward = "experts_backward_",
                 .saved = {"x", "indices", "weights", "gate_up_weight", "down_weight",
                           "gate_up_bias", "down_bias", "gate_up"},
                 .of = {{"x", "dx"},
                        {"weights", "dweights"},
                        {"gate_up_weight", "dgate_up_weight"},
                        {"down_weight", "ddown_weight"},
                        {"gate_up_bias", "dgate_up_bias"},
                        {"down_bias", "ddown_bias"}}};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"x", "gate_up_weight", "down_weight", "gate_up_bias", "down_bias"};
  op.example = samples;
  op.sizes = expert_sizes();
  const Extent many = {
      {"rows", 8192}, {"num_experts", 128}, {"slots", 8}, {"inner", 2048}, {"size", 768}};
  const Extent few = {
      {"rows", 8192}, {"num_experts", 8}, {"slots", 2}, {"inner", 4096}, {"size", 14336}};
  op.bench = {{"T8192-E128-k8-H2048-I768", many},
              {.name = "T8192-E128-k8-H2048-I768, skewed 10 : 1", .extent = many, .skew = 10},
              {"T8192-E8-k2-H4096-I14336", few},
              {.name = "T8192-E8-k2-H4096-I14336, skewed 10 : 1", .extent = few, .skew = 10}};
  return op;
}

Op backward_op(bool in_place) {
  Op op;
  op.name = in_place ? "experts_backward_" : "experts_backward";
  op.doc = "gradients of experts, of those that are wanted";
  if (in_place) op.doc += "; gate_up is overwritten";
  op.internal = true;
  op.inputs = {dense("dy")};
  append(op.inputs, tensors());
  op.inputs.push_back(in_place ? written(dense("gate_up")) : dense("gate_up"));
  append(op.inputs, options());
  op.inputs.push_back(mask("output_mask", 6));
  op.outputs = {gradient_output("dx", "x", "x", 0),
                gradient_output("dweights", "weights", "weights", 1),
                gradient_output("dgate_up_weight", "gate_up_weight", "x", 2),
                gradient_output("ddown_weight", "down_weight", "x", 3),
                gradient_output("dgate_up_bias", "gate_up_bias", "x", 4),
                gradient_output("ddown_bias", "down_bias", "x", 5)};
  op.check = check;
  op.example = [](const Extent& e) {
    const int64_t pairs = e["rows"] * e["slots"];
    std::vector<Sample> list = {{.input = "dy", .shape = {e["rows"], e["inner"]}}};
    append(list, samples(e));
    list.push_back({.input = "gate_up", .shape = {pairs, 2 * e["size"]}});
    for (const char* name : {"activation", "interleaved", "limit", "transposed"})
      list.push_back({.input = name, .value = 0});
    list.push_back({.input = "alpha", .value = 1.702});
    list.push_back({.input = "output_mask", .value = 63});
    return list;
  };
  op.sizes = expert_sizes();
  return op;
}

const Register forward{forward_op()};
const Register backward{backward_op(false)};
const Register donating_backward{backward_op(true)};

}  // namespace

std::vector<Input> expert_gate_options() {
  return {choice("activation", {"silu", "gelu_tanh", "gelu", "quick_gelu", "clamped"}, "silu"),
          flag("interleaved"), real("alpha", "1.702"), limit()};
}

void check_expert_gate(const Call& call) {
  require_limit(call);
  const double alpha = call.real("alpha");
  if (!(alpha > 0.0)) call.refuse("alpha", fmt::format("is {}", alpha), "above 0");
}

Spec expert_gate_spec(const Call& call, Dtype dtype) {
  const int64_t activation = call.integer("activation");
  const bool clamped = activation == clamped_activation;
  return gate_spec(call, dtype,
                   {.activation =
                        [&](const Call&) {
                          return clamped ? Activation::quick_gelu
                                         : static_cast<Activation>(activation);
                        },
                    .limit = real_option("limit"),
                    .lifted = clamped});
}

}  // namespace liger
