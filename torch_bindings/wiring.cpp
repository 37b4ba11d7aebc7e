#include "torch_bindings/wiring.h"

#include <algorithm>

#include "engine/registry.h"

namespace liger::torch_bindings {

const c10::OperatorHandle& OperatorByName::operator()() const {
  std::call_once(once_, [this] {
    handle_ = c10::Dispatcher::singleton().findSchemaOrThrow(("liger_jit::" + name_).c_str(), "");
  });
  return *handle_;
}

namespace {

uint32_t bits_of(const Op& op, const std::vector<std::string>& outputs) {
  uint32_t bits = outputs.empty() ? ~0u : 0;
  for (const std::string& name : outputs) {
    TORCH_INTERNAL_ASSERT(op.output_index(name) >= 0, op.name, " has no output ", name);
    bits |= 1u << op.output_index(name);
  }
  return bits;
}

}  // namespace

Wiring::Wiring(const Op& op)
    : op(op),
      node_name("liger_jit::" + op.name + "_gradient"),
      kept_by(op.gradient.kept_by),
      finished_by(op.gradient.finished_by),
      in_parts(!op.gradient.kept_by.empty()),
      backward(op.gradient.backward),
      donating_backward(op.gradient.donating_backward) {
  const Gradient& gradient = op.gradient;
  // A backward returns each distinct gradient once, in the order of the declaration.
  std::vector<std::string> names;
  for (const auto& [input, name, through, added_to] : gradient.of) {
    const int sum = added_to.empty() ? -1 : op.output_index(added_to);
    const uint32_t bits = bits_of(op, sum < 0 ? through : std::vector{added_to});
    if (name.empty()) {
      differentiable.push_back({op.input_index(input), -1, bits, sum});
      continue;
    }
    const auto found = std::find(names.begin(), names.end(), name);
    const auto place = static_cast<int>(found - names.begin());
    if (found == names.end()) names.push_back(name);
    differentiable.push_back(
        {op.input_index(input), gradient.ready() ? op.output_index(name) : place, bits, sum});
  }
  gradients = static_cast<int>(names.size());
  needs_grad_flag = op.input_index(gradient.needs_grad_flag);
  for (uint32_t bits = 0; bits < 1u << gradients; ++bits) {
    c10::List<bool> mask;
    for (int i = 0; i < gradients; ++i) mask.push_back((bits >> i & 1) != 0);
    masks.emplace_back(std::move(mask));
  }
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    if (op.outputs[i].differentiable) outputs_with_history = i + 1;
  }
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const int input = static_cast<int>(i);
    if (input == needs_grad_flag) continue;
    const bool has_gradient =
        std::any_of(differentiable.begin(), differentiable.end(),
                    [&](const Differentiable& each) { return each.input == input; });
    if (!op.inputs[i].is_tensor()) {
      scalars.push_back(input);
    } else if (!has_gradient) {
      constants.push_back(input);
    }
  }
  for (const std::string& name : gradient.saved) {
    const int input = op.input_index(name);
    saved.push_back({input >= 0, input >= 0 ? input : op.output_index(name)});
  }
  if (gradient.backward.empty()) return;
  const Op& first = op_named(gradient.backward);
  for (size_t i = 0, arrives = 0; i < op.outputs.size(); ++i) {
    if (!op.outputs[i].differentiable) continue;
    if (first.inputs[arrives++].kind == InputKind::optional_tensor) dispensable |= 1u << i;
  }
  if (gradient.donating_backward.empty()) return;
  const Op& last = op_named(gradient.donating_backward);
  for (size_t i = 0; i < gradient.saved.size(); ++i) {
    const int input = last.input_index(gradient.saved[i]);
    TORCH_INTERNAL_ASSERT(input >= 0, gradient.donating_backward, " has no ", gradient.saved[i]);
    if (!last.inputs[input].written) continue;
    TORCH_INTERNAL_ASSERT(!saved[i].is_input, gradient.donating_backward,
                          " would overwrite an input");
    overwritten |= 1u << i;
  }
}

}  // namespace liger::torch_bindings
