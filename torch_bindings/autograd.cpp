// One node of the graph serves every op: what it saves and what it calls is in the declaration.
#include <ATen/ops/new_zeros.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <algorithm>

#include "torch_bindings/execute.h"
#include "torch_bindings/kernels.h"
#include "torch_bindings/place.h"
#include "torch_bindings/tensor.h"
#include "torch_bindings/torch_version.h"

namespace liger::torch_bindings {

namespace {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Whether the graph is given up after this backward.
bool is_last() {
  return !torch::autograd::get_current_graph_task_keep_graph() && !c10::GradMode::is_enabled();
}

// By a mode, a subclass or a transform: those of functorch have no memory of their own.
bool traced(const at::Tensor& tensor) {
  return !tensor.has_storage() || c10::impl::TorchDispatchModeTLS::stack_len() > 0 ||
         tensor.unsafeGetTensorImpl()->is_python_dispatch() ||
         tensor.key_set().has(c10::DispatchKey::Functionalize);
}

// The graph in which its device records what is launched, to launch it again; 0: it launches.
uint64_t capture_on_device_of(const at::Tensor& tensor) {
  if (!tensor.is_cuda()) return 0;
  const c10::Device where = tensor.device();
  return device(backend_of(where), where.index()).capture(current_stream(where));
}

struct Gradients final : Node {
  explicit Gradients(const Wiring& wiring) : wiring(wiring) {}

  std::string name() const override { return wiring.node_name; }

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
    if (!any) return variable_list(wiring.differentiable.size());
    return wiring.op.gradient.ready() ? scaled(incoming) : computed(incoming);
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(reinterpret_cast<uint64_t>(&wiring));
    for (size_t i = 0; i < saved.size(); ++i) args.collect(saved[i], keeps_own_output(i));
    for (const c10::IValue& scalar : scalars) args.collect(scalar);
    args.collect(unit);
    for (size_t i = 0; i < wiring.differentiable.size(); ++i) args.collect(is_what_arrives(i));
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

  const Wiring& wiring;
  c10::SmallVector<SavedVariable, 6> saved;
  c10::SmallVector<c10::IValue, 12> scalars;
  double unit = 1.0;     // what a forward has multiplied its gradients with
  uint64_t capture = 0;  // the graph that recorded the forward, where a backward may overwrite
  bool released = false;

 private:
  // Whether saved tensor `i` is an output with this node for its history.
  bool keeps_own_output(size_t i) const {
    if (wiring.op.gradient.ready() || wiring.saved[i].is_input) return false;
    return wiring.op.outputs[wiring.saved[i].index].differentiable;
  }

  // Through the dispatcher, so that it can be traced; and, where the gradients could be
  // differentiated, through the autograd key that refuses it.
  // `kept`: where the saved tensors begin on the stack.
  void call_backward(Stack& stack, const variable_list& incoming, size_t kept) {
    bool differentiated = c10::GradMode::is_enabled();
    for (const at::Tensor& gradient : incoming)
      differentiated |= gradient.defined() && torch::autograd::isFwGradDefined(gradient);
    if (differentiated) return wiring.backward().callBoxed(stack);
    const at::AutoDispatchBelowADInplaceOrView below;
    if (!overwrites_kept(stack, incoming, kept)) return wiring.backward().callBoxed(stack);
    released = true;  // whatever becomes of the call, what was saved is no more
    wiring.donating_backward().callBoxed(stack);
  }

  // Whether this backward may write over what the forward kept: it is run and not traced, and the
  // graph is given up after it. A CUDA graph that records it may be replayed often, so the same one
  // must have recorded the forward, which then makes the kept tensors anew each time.
  bool may_overwrite(const variable_list& incoming) const {
    if (!is_last()) return false;
    const at::Tensor* any = nullptr;
    for (const at::Tensor& gradient : incoming) {
      if (!gradient.defined()) continue;
      if (traced(gradient)) return false;
      any = &gradient;
    }
    return capture_on_device_of(*any) == capture;
  }

  // Then, whether saved tensor `i`, unpacked into `tensor` alone, is this node's alone: nobody else
  // holds it or a view of it. What a hook gave back, as checkpoints do, may lie anyhow, be of an
  // inference, or be memory of somebody whom torch does not count, an array say; no such storage
  // can be resized.
  bool is_own(size_t i, const at::Tensor& tensor) const {
    if (traced(tensor) || !tensor.has_storage()) return false;
    const at::Storage& storage = tensor.storage();
    if (storage.use_count() != 1) return false;
    if (!saved[i].has_hooks()) return tensor.use_count() == 2;
    return storage.resizable() && tensor.is_contiguous() && !tensor.is_inference() &&
           (tensor.use_count() == 1 || is_pythons_shadow(tensor));
  }

  // Whether the other holder is an object of Python that only the tensor itself keeps alive.
  static bool is_pythons_shadow(const at::Tensor& tensor) {
    return tensor.use_count() == 2 &&
           tensor.unsafeGetTensorImpl()->pyobj_slot()->has_unique_reference();
  }

  // Whether all that a last backward writes may be written. `kept`: as in call_backward.
  bool overwrites_kept(const Stack& stack, const variable_list& incoming, size_t kept) const {
    if (wiring.overwritten == 0 || !may_overwrite(incoming)) return false;
    for (size_t i = 0; i < saved.size(); ++i) {
      if (wiring.overwrites(i) && stack[kept + i].isTensor() &&
          !is_own(i, stack[kept + i].toTensor()))
        return false;
    }
    return true;
  }

  // Of the same class as a gradient that did arrive: a sharded tensor, say, meets no plain one.
  at::Tensor zeros_like_output(size_t output, const variable_list& incoming) {
    const auto arrived = std::find_if(incoming.begin(), incoming.end(),
                                      [](const at::Tensor& each) { return each.defined(); });
    const auto& metadata = input_metadata(output);
    return arrived->new_zeros_symint(metadata.shape_as_dim_vector(), metadata.options());
  }

  // What the backward is given for an output at which perhaps nothing arrived.
  c10::IValue incoming_or_none(size_t output, const variable_list& incoming) {
    if (incoming[output].defined()) return incoming[output];
    if ((wiring.dispensable >> output & 1) != 0) return {};
    return zeros_like_output(output, incoming);
  }

  // Whether input `i` gets a gradient: it is asked for, and one has arrived at an output of it.
  bool is_wanted(size_t i, uint32_t arrived) const {
    return (wiring.differentiable[i].through & arrived) != 0 && task_should_compute_output(i);
  }

  // Whether input `i` was added as it is, so that its gradient is what arrives at the sum.
  bool is_what_arrives(size_t i) const {
    const auto& [input, gradient, through, sum] = wiring.differentiable[i];
    if (sum < 0 || gradient < 0) return sum >= 0;
    const torch::autograd::Edge& edge = next_edge(i);
    if (!edge.is_valid()) return false;
    const auto& one = edge.function->input_metadata(edge.input_nr);
    const auto& whole = input_metadata(sum);
    return one.dtype() == whole.dtype() &&
           are_known_alike(one.shape_as_dim_vector(), whole.shape_as_dim_vector());
  }

  // Sizes that nobody knows yet are taken for others.
  static bool are_known_alike(c10::SymIntArrayRef left, c10::SymIntArrayRef right) {
    if (left.size() != right.size()) return false;
    for (size_t i = 0; i < left.size(); ++i) {
      if (!TORCH_GUARD_OR_FALSE(left[i].sym_eq(right[i]))) return false;
    }
    return true;
  }

  variable_list computed(const variable_list& incoming) {
    variable_list result(wiring.differentiable.size());
    uint32_t arrived = 0;
    for (size_t i = 0; i < incoming.size(); ++i) {
      if (incoming[i].defined()) arrived |= 1u << i;
    }
    uint32_t wanted = 0;
    for (size_t i = 0; i < result.size(); ++i) {
      if (!is_wanted(i, arrived)) continue;
      if (is_what_arrives(i)) {
        result[i] = incoming[wiring.differentiable[i].added_to];
      } else {
        wanted |= 1u << wiring.differentiable[i].gradient;
      }
    }
    if (wanted == 0) return result;
    Stack stack;
    stack.reserve(incoming.size() + saved.size() + scalars.size() + 1);
    for (size_t i = 0; i < incoming.size(); ++i) {
      if (!wiring.op.outputs[i].differentiable) continue;
      stack.push_back(incoming_or_none(i, incoming));
    }
    const size_t kept = stack.size();
    for (SavedVariable& variable : saved) {
      at::Tensor tensor = variable.unpack(getptr());
      stack.push_back(tensor.defined() ? c10::IValue(std::move(tensor)) : c10::IValue());
    }
    for (const c10::IValue& scalar : scalars) stack.push_back(scalar);
    stack.push_back(wiring.masks[wanted]);
    call_backward(stack, incoming, kept);
    for (size_t i = 0; i < result.size(); ++i) {
      if (!result[i].defined() && is_wanted(i, arrived))
        result[i] = stack[wiring.differentiable[i].gradient].toTensor();
    }
    return result;
  }

  // The forward has made the gradients; what arrives is a factor. Where nobody else can see them
  // they are scaled where they lie, and a factor of 1 costs one read of it.
  variable_list scaled(const variable_list& incoming) {
    static const OperatorByName scale("scale"), scale_in_place("scale_");
    variable_list result(wiring.differentiable.size());
    const bool last = may_overwrite(incoming);
    for (size_t i = 0; i < result.size(); ++i) {
      if (!task_should_compute_output(i)) continue;
      at::Tensor gradient = saved[i].unpack(getptr());
      if (!gradient.defined()) continue;
      const bool in_place = last && is_own(i, gradient);
      if (c10::GradMode::is_enabled()) gradient = refusing(gradient);
      Stack stack;
      stack.reserve(3);
      stack.emplace_back(gradient);
      stack.emplace_back(incoming[0].contiguous());
      stack.emplace_back(1.0 / unit);
      released |= in_place;
      (in_place ? scale_in_place : scale)().callBoxed(stack);
      result[i] = in_place ? std::move(gradient) : stack[0].toTensor();
    }
    return result;
  }

  // It depends on the inputs, but its own derivative is not known: a second differentiation must
  // raise, not give zeros.
  at::Tensor refusing(const at::Tensor& gradient) const {
    at::Tensor alias = gradient.detach();
    const NodePointer<Node> refusal = make_node<torch::autograd::NotImplemented>(
        name(), torch::autograd::edge_list(next_edges()));
    torch::autograd::set_history(alias, refusal);
    return alias;
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

// Asks the forward for the gradients it makes itself, or for what the backward reads of it.
void ask(const Wiring& wiring, c10::ArrayRef<c10::IValue> inputs, c10::IValue& asked) {
  if (asked.isBool()) {
    asked = true;
    return;
  }
  c10::List<bool> mask;
  for (const Wiring::Differentiable& each : wiring.differentiable)
    mask.push_back(requires_grad(inputs[each.input]));
  asked = mask;
}

torch::autograd::edge_list edges_to(const Wiring& wiring, c10::ArrayRef<c10::IValue> inputs) {
  torch::autograd::edge_list edges;
  edges.reserve(wiring.differentiable.size());
  for (const Wiring::Differentiable& each : wiring.differentiable) {
    const c10::IValue& value = inputs[each.input];
    edges.push_back(requires_grad(value) ? torch::autograd::impl::gradient_edge(value.toTensor())
                                         : torch::autograd::Edge());
  }
  return edges;
}

// True if the call needs a node. Refuses what could only give a wrong derivative.
bool needs_gradient(const Wiring& wiring, c10::ArrayRef<c10::IValue> inputs) {
  bool need = false;
  for (const Wiring::Differentiable& each : wiring.differentiable) {
    refuse_forward_ad(wiring.op, inputs[each.input]);
    need |= requires_grad(inputs[each.input]);
  }
  for (const int input : wiring.constants) refuse_forward_ad(wiring.op, inputs[input]);
  if (!c10::GradMode::is_enabled()) return false;
  for (const int input : wiring.constants) {
    TORCH_CHECK_NOT_IMPLEMENTED(!requires_grad(inputs[input]), "liger_jit::", wiring.op.name,
                                ": argument '", wiring.op.inputs[input].name,
                                "' requires grad but gets no gradient; detach it");
  }
  return need;
}

// A tensor of its own that shares memory and version.
at::Tensor alias_of(const at::Tensor& tensor) {
  if (traced(tensor)) return tensor;
  return at::Tensor(tensor.unsafeGetTensorImpl()->shallow_copy_and_detach(
      torch::autograd::impl::version_counter(tensor), false));
}

// A matrix that is multiplied is kept by an alias, as torch's linear layers keep a view of theirs:
// who gives a parameter other `data` before its backward finds the gradient of the forward.
at::Tensor kept_input(const at::Tensor& input) {
  return input.is_leaf() && input.dim() >= 2 ? alias_of(input) : input;
}

// Inputs are saved before the kernels see them.
void save_inputs(const Wiring& wiring, c10::ArrayRef<c10::IValue> inputs, Gradients& node) {
  for (const auto& [is_input, index] : wiring.saved) {
    node.saved.push_back(is_input && inputs[index].isTensor()
                             ? SavedVariable(kept_input(inputs[index].toTensor()), false)
                             : SavedVariable());
  }
  for (const int input : wiring.scalars) node.scalars.push_back(inputs[input]);
}

// The gradients that the forward has made go into the node.
void keep_ready_gradients(const Wiring& wiring, const Stack& stack, size_t base, Gradients& node) {
  for (size_t i = 0; i < wiring.differentiable.size(); ++i) {
    if (!node.next_edge(i).is_valid()) {
      node.saved.emplace_back();
      continue;
    }
    const at::Tensor& gradient = stack[base + wiring.differentiable[i].gradient].toTensor();
    node.saved.emplace_back(alias_of(gradient), false);
  }
}

// Outputs are saved after their history is set, if they get one.
void save_outputs(const Wiring& wiring, const Stack& stack, size_t base, Gradients& node) {
  for (size_t i = 0; i < wiring.saved.size(); ++i) {
    const auto [is_input, index] = wiring.saved[i];
    if (is_input) continue;
    const at::Tensor& output = stack[base + index].toTensor();
    // The caller's reference to what a backward may overwrite is then one to another tensor, and
    // shows while it lives.
    node.saved[i] = SavedVariable(wiring.overwrites(i) ? alias_of(output) : output,
                                  wiring.op.outputs[index].differentiable);
  }
}

// Both parts of an op in its place on the stack. What the first makes is saved before the second
// runs, so a checkpoint that has all it wants then ends this by an exception.
void run_in_parts(const Wiring& wiring, Stack& stack, size_t base, Gradients& node) {
  const at::AutoDispatchBelowADInplaceOrView below;
  const std::vector<Output>& outputs = wiring.op.outputs;
  Stack result(outputs.size());
  Stack kept(stack.begin() + static_cast<ptrdiff_t>(base), stack.end());
  Stack rest = kept;
  wiring.kept_by().callBoxed(kept);
  rest.insert(rest.end(), kept.begin(), kept.end());
  std::vector<bool> is_kept(outputs.size());
  for (const auto& [is_input, index] : wiring.saved) {
    if (!is_input) is_kept[index] = true;
  }
  for (size_t i = 0, next = 0; i < outputs.size(); ++i) {
    if (is_kept[i]) result[i] = std::move(kept[next++]);
  }
  save_outputs(wiring, result, 0, node);
  wiring.finished_by().callBoxed(rest);
  for (size_t i = 0, next = 0; i < outputs.size(); ++i) {
    if (!is_kept[i]) result[i] = std::move(rest[next++]);
  }
  stack.resize(base);
  for (c10::IValue& output : result) stack.push_back(std::move(output));
}

}  // namespace

// Lives as long as the operators do, to the end of the process.
AutogradKernel::AutogradKernel(const Op& op) : wiring(*new Wiring(op)) {}

void AutogradKernel::operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys,
                                Stack* stack) {
  const auto below = keys & c10::after_autograd_keyset;
  const Op& op = wiring.op;
  const size_t count = op.inputs.size();
  const size_t base = stack->size() - count;
  const auto inputs = c10::ArrayRef<c10::IValue>(*stack).slice(base, count);
  if (!needs_gradient(wiring, inputs)) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return handle.redispatchBoxed(below, stack);
  }
  const bool ready = op.gradient.ready();
  if (wiring.needs_grad_flag >= 0) ask(wiring, inputs, (*stack)[base + wiring.needs_grad_flag]);

  const auto node = make_node<Gradients>(wiring);
  node->set_next_edges(edges_to(wiring, inputs));
  if (ready && op.gradient.unit) node->unit = op.gradient.unit(call_of(op, inputs, {}));
  if (!ready) save_inputs(wiring, inputs, *node);
  if (wiring.in_parts) {
    run_in_parts(wiring, *stack, base, *node);
  } else {
    at::AutoDispatchBelowADInplaceOrView guard;
    handle.redispatchBoxed(below, stack);
  }
  for (size_t i = 0; i < wiring.outputs_with_history; ++i) {
    if (op.outputs[i].differentiable) {
      at::Tensor output = (*stack)[base + i].toTensor();
      torch::autograd::set_history(output, node);
    } else {
      node->add_input_metadata(Node::undefined_input());
    }
  }
  const at::Tensor& first = (*stack)[base].toTensor();
  if ((ready || wiring.overwritten != 0) && !traced(first))
    node->capture = capture_on_device_of(first);
  if (ready) {
    keep_ready_gradients(wiring, *stack, base, *node);
  } else if (!wiring.in_parts) {
    save_outputs(wiring, *stack, base, *node);
  }
}

void MutableKernel::operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys,
                               Stack* stack) {
  const size_t count = op.inputs.size();
  const auto inputs = c10::ArrayRef<c10::IValue>(*stack).slice(stack->size() - count, count);
  std::vector<at::Tensor> written;
  for (size_t i = 0; i < count; ++i) {
    refuse_forward_ad(op, inputs[i]);
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
