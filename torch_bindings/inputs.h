// What a composite is given.
#pragma once

#include <ATen/core/ivalue.h>

#include <string_view>

#include "ops/prepare.h"
#include "torch_bindings/execute.h"
#include "torch_bindings/tensor.h"

namespace liger::torch_bindings {

// Reads inputs by the names of the declaration; a tensor that is not given is undefined.
struct Inputs {
  const Op& op;
  c10::ArrayRef<c10::IValue> values;

  const c10::IValue& operator[](std::string_view name) const {
    return values[op.input_index(name)];
  }
  bool has(std::string_view name) const {
    const int index = op.input_index(name);
    return index >= 0 && !absent(values[index], op.inputs[index]);
  }
  at::Tensor tensor(std::string_view name) const {
    return has(name) ? (*this)[name].toTensor() : at::Tensor();
  }
};

// Raises Error(input) where the tensors are on several devices or the declaration forbids a value.
inline Inputs checked_inputs(const Op& op, c10::ArrayRef<c10::IValue> values) {
  device_of(op, values);
  check_call(call_of(op, values, {}));
  return {op, values};
}

}  // namespace liger::torch_bindings
