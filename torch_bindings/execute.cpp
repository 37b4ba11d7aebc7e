#include "torch_bindings/execute.h"

#include <map>
#include <string>

#include "base/error.h"
#include "torch_bindings/memory.h"
#include "torch_bindings/place.h"
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

int ordinal_of(c10::Device where) { return where.is_cpu() ? 0 : where.index(); }
Device& opened(c10::Device where) { return device(backend_of(where), ordinal_of(where)); }
Place place_of(const Device& on, c10::Device where) {
  return place_on(on.properties().target, ordinal_of(where), on.properties().multiprocessors);
}

}  // namespace

Place place_of(c10::Device where) { return place_of(opened(where), where); }

namespace {

struct Prepared {
  CallKey words;
  void* pointers[all_slots];
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

std::map<std::string, Composite>& composites() {
  static auto* table = new std::map<std::string, Composite>();
  return *table;
}

}  // namespace

Tensors execute(const Op& op, c10::ArrayRef<c10::IValue> inputs, const Op& blamed) {
  const c10::Device where = device_of(op, inputs);
  const CurrentDevice current(where);
  Device& on = opened(where);
  const Stream stream = current_stream(where);
  const Place place = place_of(on, where);

  Prepared call;
  read_inputs(op, inputs, place, call);
  const auto planned = [&] {
    if (const Plan* found = find_plan(call.words.span())) return found;
    return &plan_for(call.words.span(),
                     [&] { return make_plan(decode(op, call.words.span()), on, stream); });
  };
  const Plan* plan = planned();
  c10::SmallVector<c10::IValue, 16> copied;
  if (plan->copies != 0) {
    copied.append(inputs.begin(), inputs.end());
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      if (plan->copies >> i & 1) copied[i] = inputs[i].toTensor().contiguous();
    }
    inputs = copied;
    read_inputs(op, inputs, place, call);
    plan = planned();
  }
  Fault* const shared_fault = on.fault();
  Fault fault_of_call;
  if (plan->records_faults) {
    call.pointers[fault_slot] = shared_fault ? on.fault_pointer() : &fault_of_call;
    call.pointers[blamed_slot] = const_cast<Op*>(&blamed);
    // A backward goes on: its forward has told of the row by a NaN, and the next call will.
    if (shared_fault && !blamed.internal) raise_fault(*shared_fault);
  }

  Tensors outputs;
  size_t slot = op.inputs.size();
  const Memory memory(where);
  for (const OutputPlan& output : plan->outputs) {
    outputs.push_back(memory.tensor(output));
    call.pointers[slot++] = outputs.back().mutable_data_ptr();
  }
  c10::DataPtr workspace;
  if (plan->workspace_bytes > 0) {
    workspace = memory.bytes(plan->workspace_bytes);
    char* const begin = static_cast<char*>(workspace.get());
    for (const int64_t offset : plan->temporary_offsets) call.pointers[slot++] = begin + offset;
  }
  launch(*plan, call.pointers, stream);
  if (plan->records_faults && !shared_fault) raise_fault(fault_of_call);
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
  composites()[op] = composite;
}
Composite composite_of(const Op& op) {
  const auto found = composites().find(op.name);
  return found == composites().end() ? nullptr : found->second;
}

}  // namespace liger::torch_bindings
