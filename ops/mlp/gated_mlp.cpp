#include "ops/mlp/gated_mlp.h"

#include "engine/registry.h"
#include "ops/gradient_output.h"
#include "ops/mlp/gated.h"

namespace liger {
namespace {

const GateFormula formula{
    .activation =
        [](const Call& call) { return static_cast<Activation>(call.integer("activation")); },
    .gate_multiplier = real_option("gate_multiplier"),
    .down_multiplier = real_option("down_multiplier")};

template <class Item>
void append(std::vector<Item>& list, const std::vector<Item>& more) {
  list.insert(list.end(), more.begin(), more.end());
}

void require_columns(const Call& call, std::string_view weight, int64_t columns,
                     const std::string& meaning) {
  require_dims(call, weight, 2, "[out, in]");
  require_same_dtype(call, "x", weight);
  if (call[weight].last_size() == columns) return;
  call.refuse(weight, "has shape " + shape_text(call[weight]),
              "[out, " + std::to_string(columns) + "], " + meaning);
}

Dtype x_dtype(const Call& call) { return call["x"].dtype; }

}  // namespace

std::vector<Input> mlp_inputs() {
  return {dense("x"), dense("gate_weight"), optional(dense("up_weight")), dense("down_weight")};
}

std::vector<Input> mlp_gate_options() {
  return {activation_choice("silu"), gate_multiplier(), down_multiplier()};
}

void check_mlp(const Call& call) {
  if (call["x"].dims == 0) call.refuse("x", "has no dimensions", "[..., in]");
  const int64_t width = call["x"].last_size();
  require_columns(call, "gate_weight", width, "the last size of 'x'");
  const Tensor& gate = call["gate_weight"];
  const bool packed = !call.has("up_weight");
  if (packed && gate.sizes[0] % 2 != 0) {
    call.refuse("gate_weight", "has shape " + shape_text(gate),
                "an even number of rows without 'up_weight': those of gate, then those of up");
  }
  if (!packed) {
    require_columns(call, "up_weight", width, "the last size of 'x'");
    require_same_shape(call, "gate_weight", "up_weight");
  }
  require_columns(call, "down_weight", packed ? gate.sizes[0] / 2 : gate.sizes[0],
                  "the rows of gate");
}

std::vector<Output> mlp_gradients() {
  return {gradient_output("dx", "x", "x", 0),
          gradient_output("dgate_weight", "gate_weight", "x", 1),
          gradient_output("dup_weight", "up_weight", "x", 2),
          gradient_output("ddown_weight", "down_weight", "x", 3)};
}

std::vector<Sample> mlp_example(const Extent& e) {
  return {{.input = "x", .shape = {e["rows"], e["inner"]}},
          {.input = "gate_weight", .shape = {e["size"], e["inner"]}},
          {.input = "up_weight", .shape = {e["size"], e["inner"]}},
          {.input = "down_weight", .shape = {e["inner"], e["size"]}}};
}

std::vector<Sample> mlp_gate_samples() {
  return {{.input = "activation", .value = 0},
          {.input = "gate_multiplier", .value = 1},
          {.input = "down_multiplier", .value = 1}};
}

namespace {

Output output_y() {
  return {"y", [](const Call&) { return linear("x", "down_weight"); }, x_dtype};
}

Output output_gate() {
  return {"gate", [](const Call&) { return linear("x", "gate_weight"); }, x_dtype, false};
}

Output output_up() {
  const auto shape = [](const Call& call) {
    return call.has("up_weight") ? linear("x", "up_weight") : empty();
  };
  return {"up", shape, x_dtype, false};
}

Op forward_op() {
  Op op;
  op.name = "gated_mlp";
  op.doc =
      "y = (act(x @ gate.T) * (x @ up.T)) @ down.T; keeps gate and up, and not their product. "
      "Without up_weight the rows of gate_weight are those of both. gate is multiplied by "
      "gate_multiplier first, y by down_multiplier";
  op.inputs = mlp_inputs();
  append(op.inputs, mlp_gate_options());
  op.outputs = {output_y(), output_gate(), output_up()};
  op.check = check_mlp;
  op.gradient = {.backward = "gated_mlp_backward",
                 .donating_backward = "gated_mlp_backward_",
                 .saved = {"x", "gate_weight", "up_weight", "down_weight", "gate", "up"},
                 .kept_by = "gated_mlp_kept",
                 .finished_by = "gated_mlp_finished",
                 .of = {{"x", "dx"},
                        {"gate_weight", "dgate_weight"},
                        {"up_weight", "dup_weight"},
                        {"down_weight", "ddown_weight"}}};
  op.autocast = Autocast::lower;
  op.autocast_inputs = {"x", "gate_weight", "up_weight", "down_weight"};
  op.example = mlp_example;
  return op;
}

Op part_op(const char* name, const char* doc) {
  Op op;
  op.name = name;
  op.doc = doc;
  op.internal = true;
  op.part_of = "gated_mlp";
  op.inputs = mlp_inputs();
  append(op.inputs, mlp_gate_options());
  op.check = check_mlp;
  op.example = mlp_example;
  return op;
}

// The products with which a forward begins, apart from the last: a checkpoint that runs it again
// needs gate and up alone.
Op kept_op() {
  Op op = part_op("gated_mlp_kept", "gate and up of gated_mlp");
  op.outputs = {output_gate(), output_up()};
  return op;
}

std::vector<Sample> kept_example(const Extent& e) {
  return {{.input = "gate", .shape = {e["rows"], e["size"]}},
          {.input = "up", .shape = {e["rows"], e["size"]}}};
}

Op finished_op() {
  Op op = part_op("gated_mlp_finished", "y of gated_mlp, from gate and up");
  append(op.inputs, {dense("gate"), optional(dense("up"))});
  op.outputs = {output_y()};
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = mlp_example(e);
    append(samples, mlp_gate_samples());
    append(samples, kept_example(e));
    return samples;
  };
  return op;
}

Op backward_op(bool in_place) {
  const auto kept = [in_place](Input input) {
    return in_place ? written(std::move(input)) : input;
  };
  Op op;
  op.name = in_place ? "gated_mlp_backward_" : "gated_mlp_backward";
  op.doc = "gradients of gated_mlp, of those that are wanted";
  if (in_place) op.doc += "; gate and up are overwritten";
  op.internal = true;
  op.inputs = {dense("dy")};
  append(op.inputs, mlp_inputs());
  op.inputs.push_back(kept(dense("gate")));
  op.inputs.push_back(kept(optional(dense("up"))));
  append(op.inputs, mlp_gate_options());
  op.inputs.push_back(mask("output_mask", 4));
  op.outputs = mlp_gradients();
  op.check = check_mlp;
  op.example = [](const Extent& e) {
    std::vector<Sample> samples = {{.input = "dy", .shape = {e["rows"], e["inner"]}}};
    append(samples, mlp_example(e));
    append(samples, kept_example(e));
    append(samples, mlp_gate_samples());
    samples.push_back({.input = "output_mask", .value = 15});
    return samples;
  };
  return op;
}

KernelOf middle_kernel() {
  return {.name = "GatedMlpBackward",
          .source = "mlp/gated_mlp.h",
          .spec = [](const Call& call) -> Spec {
            return {{"gate", gate_spec(call, call["gate"].dtype, formula)},
                    {"product", call.flag("want_product")},
                    {"width", call["gate"].last_size()},
                    {"align_bytes", int64_t{call.align_bytes()}}};
          },
          .candidates =
              [](const Call& call) { return row_candidates(call, call["gate"].last_size(), 0); },
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(call["gate"].rows(), knobs); },
          .arguments = {"product",
                        "gate",
                        "up",
                        "dgate",
                        "dup",
                        {"rows", "gate.rows"},
                        {"product_stride", "product.stride"},
                        {"gate_stride", "gate.stride"},
                        {"up_stride", "up.stride"},
                        {"dgate_stride", "dgate.stride"},
                        {"dup_stride", "dup.stride"},
                        "gate_multiplier",
                        "down_multiplier"}};
}

// The kernel between the products; it writes into buffers of the composite.
Op middle_op() {
  Op op;
  op.name = "gated_mlp_middle_";
  op.doc = "from the gradient of act(gate) * up those of gate and up; the product overwrites it";
  op.internal = true;
  op.inputs = {written(rows("product")), rows("gate"), rows("up"), written(rows("dgate")),
               written(rows("dup"))};
  append(op.inputs, mlp_gate_options());
  op.inputs.push_back(flag("want_product"));
  op.check = [](const Call& call) {
    for (const char* name : {"product", "up", "dgate", "dup"}) {
      require_same_shape(call, "gate", name);
      require_same_dtype(call, "gate", name);
    }
  };
  op.kernels = {middle_kernel()};
  op.example = [](const Extent& e) {
    std::vector<Sample> samples;
    for (const char* name : {"product", "gate", "up", "dgate", "dup"}) {
      samples.push_back({.input = name, .shape = {e["rows"], e["size"]}});
    }
    samples.push_back({.input = "want_product", .value = 1});
    return samples;
  };
  return op;
}

const Register forward{forward_op()};
const Register kept{kept_op()};
const Register finished{finished_op()};
const Register backward{backward_op(false)};
const Register donating_backward{backward_op(true)};
const Register middle{middle_op()};

}  // namespace
}  // namespace liger
