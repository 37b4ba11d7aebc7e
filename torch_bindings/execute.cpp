#include "torch_bindings/execute.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <map>
#include <string>

#include "base/error.h"
#include "torch_bindings/tensor.h"

namespace liger::torch_bindings {

c10::Device device_of(const Op& op, c10::ArrayRef<c10::IValue> inputs) {
  std::optional<c10::Device> found;
  const Input* first = nullptr;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    if (!op.inputs[i].is_tensor() || absent(inputs[i], op.inputs[i])) continue;
    const c10::Device device = inputs[i].toTensor().device();
    if (!found) {
      found = device;
      first = &op.inputs[i];
    } else if (*found != device) {
      throw Error(ErrorKind::invalid_argument, "liger_jit::" + op.name + ": argument '" +
                                                   op.inputs[i].name + "' is on " + device.str() +
                                                   "; allowed: the device of '" + first->name +
                                                   "', " + found->str());
    }
  }
  if (!found) {
    throw Error(ErrorKind::invalid_argument, "liger_jit::" + op.name + ": no argument is a tensor");
  }
  return *found;
}

namespace {

Stream current_stream(c10::Device device) {
  if (device.is_cpu()) return nullptr;
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
}

struct Prepared {
  CallWords words;
  void* pointers[max_slots + 1];
};

void read_inputs(const Op& op, c10::ArrayRef<c10::IValue> inputs, Place place, Prepared& call) {
  begin_call(call.words, op, place);
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const Input& input = op.inputs[i];
    call.pointers[i] = nullptr;
    if (!input.is_tensor()) {
      push_scalar(call.words, scalar_of(inputs[i], input.kind));
    } else if (absent(inputs[i], input)) {
      push_tensor(call.words, Tensor{});
    } else {
      const at::Tensor& tensor = inputs[i].toTensor();
      push_tensor(call.words, describe(tensor, op, input));
      call.pointers[i] = const_cast<void*>(tensor.const_data_ptr());
    }
  }
}

at::Tensor allocate(const OutputPlan& output, c10::ArrayRef<c10::IValue> inputs, const Op& op,
                    c10::Device device) {
  const auto options = at::TensorOptions().dtype(scalar_type(output.dtype)).device(device);
  if (output.preserve_input < 0) return at::empty(output.sizes, options);
  const Tensor like =
      describe(inputs[output.preserve_input].toTensor(), op, op.inputs[output.preserve_input]);
  const auto strides = preserved_strides(like);
  return at::empty_strided(output.sizes, {strides.data(), output.sizes.size()}, options);
}

template <class Function>
std::map<std::string, Function>& table_of() {
  static auto* table = new std::map<std::string, Function>();
  return *table;
}

template <class Function>
Function look_up(const Op& op) {
  const auto found = table_of<Function>().find(op.name);
  return found == table_of<Function>().end() ? nullptr : found->second;
}

}  // namespace

Tensors execute(const Op& op, c10::ArrayRef<c10::IValue> inputs, const Op& blamed) {
  const c10::Device where = device_of(op, inputs);
  const c10::DeviceGuard guard(where);
  const Backend backend = backend_of(where);
  Device& on = device(backend, where.is_cpu() ? 0 : where.index());
  const Stream stream = current_stream(where);
  const Place place = place_on(on.properties().target, where.is_cpu() ? 0 : where.index(),
                               on.properties().multiprocessors);

  Prepared call;
  read_inputs(op, inputs, place, call);
  const auto make = [&] { return make_plan(decode(op, call.words.span()), on, stream); };
  const Plan* plan = &plan_for(call.words.span(), make);
  c10::SmallVector<c10::IValue, 16> copied;
  if (plan->copies != 0) {
    copied.append(inputs.begin(), inputs.end());
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      if (plan->copies >> i & 1) copied[i] = inputs[i].toTensor().contiguous();
    }
    inputs = copied;
    read_inputs(op, inputs, place, call);
    plan = &plan_for(call.words.span(), make);
  }
  Fault* const shared_fault = on.fault();
  Fault fault_of_call;
  if (plan->records_faults) {
    call.pointers[fault_slot] = shared_fault ? on.fault_pointer() : &fault_of_call;
    // A backward goes on: its forward has told of the row by a NaN, and the next call will.
    if (shared_fault && !blamed.internal) raise_fault(blamed, *shared_fault);
  }

  Tensors outputs;
  size_t slot = op.inputs.size();
  for (const OutputPlan& output : plan->outputs) {
    outputs.push_back(allocate(output, inputs, op, where));
    call.pointers[slot++] = outputs.back().mutable_data_ptr();
  }
  at::Tensor workspace;
  if (plan->workspace_bytes > 0) {
    workspace =
        at::empty({plan->workspace_bytes}, at::TensorOptions().dtype(at::kByte).device(where));
    char* memory = static_cast<char*>(workspace.mutable_data_ptr());
    for (const int64_t offset : plan->temporary_offsets) call.pointers[slot++] = memory + offset;
  }
  launch(*plan, call.pointers, stream);
  if (plan->records_faults && !shared_fault) raise_fault(blamed, fault_of_call);
  return outputs;
}

Call call_of(const Op& op, c10::ArrayRef<c10::IValue> inputs, Place place) {
  Call call(op, place);
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const Input& input = op.inputs[i];
    const int index = static_cast<int>(i);
    if (!input.is_tensor()) {
      call.scalar(index) = scalar_of(inputs[i], input.kind);
    } else if (!absent(inputs[i], input)) {
      call.tensor(index) = describe(inputs[i].toTensor(), op, input);
    }
  }
  return call;
}

RegisterComposite::RegisterComposite(const char* op, Composite composite) {
  table_of<Composite>()[op] = composite;
}
Composite composite_of(const Op& op) { return look_up<Composite>(op); }

RegisterCompositeParts::RegisterCompositeParts(const char* op, CompositeParts parts) {
  table_of<CompositeParts>()[op] = parts;
}
CompositeParts composite_parts_of(const Op& op) { return look_up<CompositeParts>(op); }

}  // namespace liger::torch_bindings
