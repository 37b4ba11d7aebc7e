// One call of a composite: what it is given, and the ops of the registry that it is made of. Its
// code is the same for real tensors, whose parts run, and for meta tensors, whose parts are
// registered with the recorder that is open on this thread (engine/prepare.h).
#pragma once

#include <ATen/core/ivalue.h>

#include <initializer_list>
#include <string_view>

#include "torch_bindings/execute.h"
#include "torch_bindings/tensor.h"

namespace liger::torch_bindings {

// A value for the input of that name. An undefined tensor is None.
struct Named {
  std::string_view name;
  c10::IValue value;
};

class CompositeCall {
 public:
  // Raises Error(invalid_argument) where the tensors are on several devices or the declaration
  // forbids a value.
  CompositeCall(const Op& op, c10::ArrayRef<c10::IValue> values);

  const Op& op() const { return op_; }
  const Place& place() const { return place_; }
  bool records() const { return records_; }  // its tensors are meta

  // Inputs by the names of the declaration; a tensor that is not given is undefined.
  const c10::IValue& operator[](std::string_view name) const {
    return values_[op_.input_index(name)];
  }
  bool has(std::string_view name) const {
    const int index = op_.input_index(name);
    return index >= 0 && !absent(values_[index], op_.inputs[index]);
  }
  const c10::IValue* find(std::string_view name) const {  // null: the composite has no such input
    const int index = op_.input_index(name);
    return index < 0 ? nullptr : &values_[index];
  }
  at::Tensor tensor(std::string_view name) const {
    return has(name) ? (*this)[name].toTensor() : at::Tensor();
  }

  // Runs a part and returns its outputs, or registers it and returns meta tensors. An option (an
  // input that is no tensor) that is not named is the composite's own of that name, and a tensor
  // that is not named is None. `spare` is for what only records: a step may fall back to it.
  Tensors run(const Op& part, std::initializer_list<Named> values, bool spare = false) const;

 private:
  const Op& op_;
  c10::ArrayRef<c10::IValue> values_;
  bool records_;
  Place place_;
};

}  // namespace liger::torch_bindings
