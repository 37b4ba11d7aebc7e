#include "ops/mlp/gated.h"

#include <algorithm>
#include <bit>

#include "base/text.h"

namespace liger {

namespace {

double value_of_formula(const std::function<double(const Call&)>& number, const Call& call,
                        double otherwise) {
  return number ? number(call) : otherwise;
}

// Of templates/device/gated.h.
enum class Packing : int64_t { apart, halves, in_turns };

Packing packing_of(const Call& call, bool packed) {
  if (!packed) return Packing::apart;
  return call.flag("interleaved") ? Packing::in_turns : Packing::halves;
}

std::string tensor_of_gate(bool packed) { return packed ? "gate_up" : "gate"; }

int64_t width_of(const Call& call, bool packed) {
  return packed ? call["gate_up"].last_size() / 2 : call["gate"].last_size();
}

Shape shape_of_y(bool packed) {
  if (!packed) return like("gate");
  return followed_by(rows_of("gate_up"), {size_of("gate_up", -1) / 2});
}

// The second half of a row begins at a multiple of less than the row itself may.
int64_t align_of(const Call& call, bool packed) {
  const int64_t bytes = width_of(call, packed) * size_bytes(call[tensor_of_gate(packed)].dtype);
  return std::min<int64_t>(call.align_bytes(), bytes == 0 ? 16 : bytes & -bytes);
}

void check_tensors(const Call& call, bool packed) {
  if (!packed) {
    require_same_shape(call, "gate", "up");
    require_same_dtype(call, "gate", "up");
    return;
  }
  const Tensor& both = call["gate_up"];
  if (both.dims == 0 || both.last_size() % 2 != 0)
    call.refuse("gate_up", "has shape " + shape_text(both),
                "[..., 2 I]: an even last size, gate and up");
}

void check_dy(const Call& call, bool packed) {
  require_same_dtype(call, tensor_of_gate(packed), "dy");
  if (!packed) return require_same_shape(call, "gate", "dy");
  const Tensor& both = call["gate_up"];
  const Tensor& dy = call["dy"];
  if (dy.dims == both.dims && std::equal(dy.sizes, dy.sizes + dy.dims - 1, both.sizes) &&
      dy.last_size() == both.last_size() / 2)
    return;
  call.refuse("dy", "has shape " + shape_text(dy),
              "[..., I], where 'gate_up' has " + shape_text(both));
}

std::vector<Input> inputs_of(const GatedOp& gated) {
  std::vector<Input> inputs;
  if (gated.packed) {
    inputs = {rows("gate_up")};
  } else {
    inputs = {rows("gate"), rows("up")};
  }
  inputs.insert(inputs.end(), gated.options.begin(), gated.options.end());
  return inputs;
}

std::vector<Sample> tensors_of_example(const GatedOp& gated, const Extent& e) {
  if (gated.packed) return {{.input = "gate_up", .shape = {e["rows"], 2 * e["size"]}}};
  return {{.input = "gate", .shape = {e["rows"], e["size"]}},
          {.input = "up", .shape = {e["rows"], e["size"]}}};
}

double default_of(const Input& option) {
  if (option.default_text == "True") return 1;
  if (option.default_text == "False") return 0;
  return std::stod(option.default_text);
}

KernelOf gated_kernel(const GatedOp& gated, bool backward) {
  const bool packed = gated.packed;
  const GateFormula formula = gated.formula;
  const std::string gate = tensor_of_gate(packed);
  const std::string up = packed ? gate : "up";
  std::vector<Argument> arguments;
  if (backward) {
    const std::string dgate = "d" + gate;
    arguments = {
        "dy", {"gate", gate}, {"up", up}, {"dgate", dgate}, {"dup", packed ? dgate : "dup"}};
  } else {
    arguments = {{"gate", gate}, {"up", up}, "y"};
  }
  arguments.push_back({"rows", gate + ".rows"});
  if (backward) arguments.push_back({"dy_stride", "dy.stride"});
  arguments.push_back({"gate_stride", gate + ".stride"});
  arguments.push_back({"up_stride", up + ".stride"});
  arguments.push_back({"gate_multiplier", real_source(formula.gate_multiplier, 1)});
  arguments.push_back({"down_multiplier", real_source(formula.down_multiplier, 1)});
  arguments.push_back({"alpha", real_source(formula.alpha, 1.702)});
  arguments.push_back({"limit", real_source(formula.limit, 0)});
  return {
      .name = gated.kernel + (backward ? "Backward" : "Forward"),
      .source = "mlp/" + gated.name + ".h",
      .spec = [packed, formula, gate](const Call& call) -> Spec {
        return {{"gate", gate_spec(call, call[gate].dtype, formula)},
                {"packing", static_cast<int64_t>(packing_of(call, packed))},
                {"width", width_of(call, packed)},
                {"align_bytes", align_of(call, packed)}};
      },
      .candidates =
          [packed](const Call& call) { return row_candidates(call, width_of(call, packed), 0); },
      .blocks = [gate](const Call& call,
                       const Knobs& knobs) { return row_blocks(call[gate].rows(), knobs); },
      .arguments = std::move(arguments)};
}

}  // namespace

Spec gate_spec(const Call& call, Dtype dtype, const GateFormula& formula) {
  const Activation activation = formula.activation ? formula.activation(call) : Activation::silu;
  return {{"x", dtype},
          {"activation", static_cast<int64_t>(activation)},
          {"scaled", value_of_formula(formula.gate_multiplier, call, 1) != 1 ||
                         value_of_formula(formula.down_multiplier, call, 1) != 1},
          {"limited", value_of_formula(formula.limit, call, 0) != 0},
          {"lifted", formula.lifted}};
}

Source real_source(const std::function<double(const Call&)>& number, double otherwise) {
  return [number, otherwise](const Call& call) {
    return std::bit_cast<int64_t>(value_of_formula(number, call, otherwise));
  };
}

Op gated_op(const GatedOp& gated) {
  const bool packed = gated.packed;
  Op op;
  op.name = gated.name;
  op.doc = gated.doc;
  op.inputs = inputs_of(gated);
  op.outputs = {{"y", [packed](const Call&) { return shape_of_y(packed); },
                 [packed](const Call& call) { return call[tensor_of_gate(packed)].dtype; }}};
  op.sharding = packed ? Sharding::rows : Sharding::elements;
  op.check = [packed, check = gated.check](const Call& call) {
    check_tensors(call, packed);
    if (check) check(call);
  };
  op.kernels = {gated_kernel(gated, false)};
  op.gradient.backward = gated.name + "_backward";
  if (packed) {
    op.gradient.saved = {"gate_up"};
    op.gradient.of = {{"gate_up", "dgate_up"}};
  } else {
    op.gradient.saved = {"gate", "up"};
    op.gradient.of = {{"gate", "dgate"}, {"up", "dup"}};
  }
  op.example = [gated](const Extent& e) { return tensors_of_example(gated, e); };
  op.bench = gated.bench;
  return op;
}

Op gated_backward_op(const GatedOp& gated) {
  const bool packed = gated.packed;
  const auto output = [](std::string name, std::string of) -> Output {
    return {std::move(name), [of](const Call&) { return like(of); },
            [of](const Call& call) { return call[of].dtype; }};
  };
  Op op;
  op.name = gated.name + "_backward";
  op.doc = "gradients of " + gated.name;
  op.internal = true;
  op.inputs = inputs_of(gated);
  op.inputs.insert(op.inputs.begin(), rows("dy"));
  op.inputs.push_back(mask("output_mask", packed ? 1 : 2));
  if (packed) {
    op.outputs = {output("dgate_up", "gate_up")};
  } else {
    op.outputs = {output("dgate", "gate"), output("dup", "up")};
  }
  op.sharding = packed ? Sharding::rows : Sharding::elements;
  op.check = [packed, check = gated.check](const Call& call) {
    check_tensors(call, packed);
    check_dy(call, packed);
    if (check) check(call);
  };
  op.kernels = {gated_kernel(gated, true)};
  op.example = [gated](const Extent& e) {
    std::vector<Sample> samples = {{.input = "dy", .shape = {e["rows"], e["size"]}}};
    for (Sample& sample : tensors_of_example(gated, e)) samples.push_back(std::move(sample));
    for (const Input& option : gated.options)
      samples.push_back({.input = option.name, .value = default_of(option)});
    samples.push_back({.input = "output_mask", .value = gated.packed ? 1.0 : 3.0});
    return samples;
  };
  return op;
}

Input gate_multiplier() { return real("gate_multiplier", "1.0"); }
Input down_multiplier() { return real("down_multiplier", "1.0"); }
Input limit() { return real("limit", "0.0"); }

std::function<double(const Call&)> real_option(std::string name) {
  return [name = std::move(name)](const Call& call) { return call.real(name); };
}

void require_limit(const Call& call) {
  const double limit = call.real("limit");
  if (!(limit >= 0.0)) call.refuse("limit", fmt::format("is {}", limit), "above 0, or 0: none");
}

}  // namespace liger
