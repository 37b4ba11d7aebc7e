// One node of the graph serves every op: what it saves and what it calls is in the declaration.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <algorithm>

#include "torch_bindings/kernels.h"
#include "torch_bindings/tensor.h"

namespace liger::torch_bindings {

namespace {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// The distinct gradients of an op, in the order in which its backward returns them.
std::vector<std::string> gradients_of(const Op& op) {
  std::vector<std::string> names;
  for (const auto& [input, gradient] : op.gradient.of) {
    if (std::find(names.begin(), names.end(), gradient) == names.end()) names.push_back(gradient);
  }
  return names;
}

int index_in(const std::vector<std::string>& names, const std::string& name) {
  return static_cast<int>(std::find(names.begin(), names.end(), name) - names.begin());
}

c10::OperatorHandle operator_named(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(("liger_jit::" + name).c_str(), "");
}

bool traced(const at::Tensor& tensor) {
  return c10::impl::TorchDispatchModeTLS::stack_len() > 0 ||
         tensor.unsafeGetTensorImpl()->is_python_dispatch() ||
         tensor.key_set().has(c10::DispatchKey::Functionalize);
}

struct Gradients final : Node {
  explicit Gradients(const Op& op) : op(op) {}

  std::string name() const override { return "liger_jit::" + op.name + "_gradient"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    released = true;
    for (SavedVariable& variable : saved) variable.reset_data();
  }

  variable_list apply(variable_list&& incoming) override {
    std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK(!released, torch::autograd::ERR_BACKWARD_TWICE);
    bool any = false;
    for (const at::Tensor& gradient : incoming) any |= gradient.defined();
    if (!any) return variable_list(op.gradient.of.size());
    return op.gradient.ready() ? scaled(incoming) : computed(incoming);
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(reinterpret_cast<uint64_t>(&op));
    for (const SavedVariable& variable : saved) args.collect(variable, false);
    for (const c10::IValue& scalar : scalars) args.collect(scalar);
  }

  variable_list apply_with_saved(const variable_list& inputs,
                                 torch::dynamo::autograd::SwapSavedVariables& swap) override {
    for (SavedVariable& variable : saved) swap.before(variable);
    for (c10::IValue& scalar : scalars) swap.before(scalar);
    variable_list result = apply(variable_list(inputs));
    for (SavedVariable& variable : saved) swap.after(variable);
    for (c10::IValue& scalar : scalars) swap.after(scalar);
    return result;
  }

  const Op& op;
  c10::SmallVector<SavedVariable, 6> saved;
  c10::SmallVector<c10::IValue, 12> scalars;
  bool released = false;

 private:
  // Through the dispatcher, so that it can be traced and its own autograd key can refuse.
  variable_list computed(const variable_list& incoming) {
    Stack stack;
    for (size_t i = 0; i < incoming.size(); ++i) {
      if (!op.outputs[i].differentiable) continue;
      stack.emplace_back(incoming[i].defined() ? incoming[i] : input_metadata(i).zeros_like());
    }
    for (SavedVariable& variable : saved) {
      at::Tensor tensor = variable.unpack(getptr());
      stack.push_back(tensor.defined() ? c10::IValue(std::move(tensor)) : c10::IValue());
    }
    for (const c10::IValue& scalar : scalars) stack.push_back(scalar);
    const std::vector<std::string> names = gradients_of(op);
    std::vector<bool> wanted(names.size());
    for (size_t i = 0; i < op.gradient.of.size(); ++i) {
      if (task_should_compute_output(i)) wanted[index_in(names, op.gradient.of[i].second)] = true;
    }
    c10::List<bool> mask;
    for (const bool bit : wanted) mask.push_back(bit);
    stack.emplace_back(mask);
    operator_named(op.gradient.backward).callBoxed(stack);
    variable_list result(op.gradient.of.size());
    for (size_t i = 0; i < result.size(); ++i) {
      if (task_should_compute_output(i))
        result[i] = stack[index_in(names, op.gradient.of[i].second)].toTensor();
    }
    return result;
  }

  // The forward has made the gradients; what arrives is a factor. Nobody else holds them, so in a
  // last backward they are scaled where they lie, and a factor of 1 costs one read of it.
  variable_list scaled(const variable_list& incoming) {
    variable_list result(op.gradient.of.size());
    const bool last =
        !torch::autograd::get_current_graph_task_keep_graph() && !c10::GradMode::is_enabled();
    for (size_t i = 0; i < result.size(); ++i) {
      if (!task_should_compute_output(i)) continue;
      at::Tensor gradient = saved[i].unpack(getptr());
      if (!gradient.defined()) continue;
      const bool in_place = last && !traced(gradient) && !traced(incoming[0]);
      Stack stack{gradient, incoming[0].contiguous()};
      operator_named(in_place ? "scale_" : "scale").callBoxed(stack);
      result[i] = in_place ? gradient.detach() : stack[0].toTensor();
    }
    return result;
  }
};

bool requires_grad(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().defined() && value.toTensor().requires_grad();
}

void refuse_forward_ad(const Op& op, const c10::IValue& value) {
  if (!value.isTensor() || !value.toTensor().defined()) return;
  TORCH_CHECK_NOT_IMPLEMENTED(!torch::autograd::isFwGradDefined(value.toTensor()),
                              "liger_jit::", op.name,
                              " has no forward-mode derivative; use reverse mode (backward)");
}

// Asks the forward for the gradients it makes itself.
void ask(const Op& op, c10::ArrayRef<c10::IValue> inputs, c10::IValue& asked) {
  if (asked.isBool()) {
    asked = true;
    return;
  }
  c10::List<bool> mask;
  for (const auto& [input, gradient] : op.gradient.of)
    mask.push_back(requires_grad(inputs[op.input_index(input)]));
  asked = mask;
}

// The gradients that the forward has made go into the node. They depend on the inputs, but their
// own derivative is not known: a second differentiation must raise, not give zeros.
void keep_ready_gradients(const Op& op, Stack& stack, size_t base, Gradients& node) {
  for (size_t i = 0; i < op.gradient.of.size(); ++i) {
    if (!node.next_edge(i).is_valid()) {
      node.saved.emplace_back();
      continue;
    }
    at::Tensor made;
    {
      at::AutoDispatchBelowADInplaceOrView guard;
      made = stack[base + op.output_index(op.gradient.of[i].second)].toTensor().detach();
    }
    const std::shared_ptr<Node> refusal(
        new torch::autograd::NotImplemented(node.name(),
                                            torch::autograd::edge_list(node.next_edges())),
        torch::autograd::deleteNode);
    torch::autograd::set_history(made, refusal);
    node.saved.emplace_back(made, false);
  }
}

}  // namespace

AutogradKernel::AutogradKernel(const Op& op) : op(op) {}

void AutogradKernel::operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys,
                                Stack* stack) {
  const auto below = keys & c10::after_autograd_keyset;
  const size_t count = op.inputs.size();
  const size_t base = stack->size() - count;
  const auto inputs = c10::ArrayRef<c10::IValue>(*stack).slice(base, count);
  bool need = false;
  for (const auto& [input, gradient] : op.gradient.of) {
    const c10::IValue& value = inputs[op.input_index(input)];
    refuse_forward_ad(op, value);
    need |= c10::GradMode::is_enabled() && requires_grad(value);
  }
  if (c10::GradMode::is_enabled()) {
    for (size_t i = 0; i < count; ++i) {
      const bool has_gradient =
          std::any_of(op.gradient.of.begin(), op.gradient.of.end(),
                      [&](const auto& pair) { return pair.first == op.inputs[i].name; });
      TORCH_CHECK_NOT_IMPLEMENTED(has_gradient || !requires_grad(inputs[i]), "liger_jit::", op.name,
                                  ": argument '", op.inputs[i].name,
                                  "' requires grad but gets no gradient; detach it");
    }
  }
  if (!need) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return handle.redispatchBoxed(below, stack);
  }
  if (op.gradient.ready()) {
    ask(op, inputs, (*stack)[base + op.input_index(op.gradient.asked_by)]);
  }

  std::shared_ptr<Gradients> node(new Gradients(op), torch::autograd::deleteNode);
  torch::autograd::edge_list edges;
  for (const auto& [input, gradient] : op.gradient.of) {
    const c10::IValue& value = inputs[op.input_index(input)];
    edges.push_back(requires_grad(value) ? torch::autograd::impl::gradient_edge(value.toTensor())
                                         : torch::autograd::Edge());
  }
  node->set_next_edges(std::move(edges));
  // Inputs are saved before the kernels see them, outputs after the history is set.
  std::vector<std::pair<size_t, int>> late;  // place in saved, output
  if (!op.gradient.ready()) {
    for (const std::string& name : op.gradient.saved) {
      const int input = op.input_index(name);
      if (input >= 0) {
        node->saved.push_back(inputs[input].isTensor()
                                  ? SavedVariable(inputs[input].toTensor(), false)
                                  : SavedVariable());
      } else {
        late.emplace_back(node->saved.size(), op.output_index(name));
        node->saved.emplace_back();
      }
    }
    for (size_t i = 0; i < count; ++i) {
      if (!op.inputs[i].is_tensor()) node->scalars.push_back(inputs[i]);
    }
  }
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    handle.redispatchBoxed(below, stack);
  }
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    at::Tensor output = (*stack)[base + i].toTensor();
    if (op.outputs[i].differentiable) {
      torch::autograd::set_history(output, node);
    } else {
      node->add_input_metadata(Node::undefined_input());
    }
  }
  for (const auto& [place, output] : late) {
    node->saved[place] =
        SavedVariable((*stack)[base + output].toTensor(), op.outputs[output].differentiable);
  }
  if (op.gradient.ready()) keep_ready_gradients(op, *stack, base, *node);
}

void MutableKernel::operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys,
                               Stack* stack) {
  const size_t count = op.inputs.size();
  const auto inputs = c10::ArrayRef<c10::IValue>(*stack).slice(stack->size() - count, count);
  std::vector<at::Tensor> written;
  for (size_t i = 0; i < count; ++i) {
    TORCH_CHECK_NOT_IMPLEMENTED(!c10::GradMode::is_enabled() || !requires_grad(inputs[i]),
                                "liger_jit::", op.name, ": argument '", op.inputs[i].name,
                                "' requires grad, but the op has no gradient");
    if (op.inputs[i].written && inputs[i].isTensor()) written.push_back(inputs[i].toTensor());
  }
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    handle.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
  }
  for (const at::Tensor& tensor : written) torch::autograd::impl::bump_version(tensor);
}

}  // namespace liger::torch_bindings
