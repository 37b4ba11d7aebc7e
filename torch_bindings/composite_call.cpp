#include "torch_bindings/composite_call.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "engine/plan.h"
#include "engine/prepare.h"

namespace liger::torch_bindings {

namespace {

using Values = c10::SmallVector<c10::IValue, 24>;

c10::IValue or_none(const c10::IValue& value) {
  return value.isTensor() && !value.toTensor().defined() ? c10::IValue() : value;
}

// In the order of the part's declaration.
Values in_order(const CompositeCall& call, const Op& part, std::initializer_list<Named> named) {
  Values values(part.inputs.size());
  uint64_t given = 0;
  for (const Named& one : named) {
    const int index = part.input_index(one.name);
    TORCH_INTERNAL_ASSERT(index >= 0, part.name, " has no input ", one.name);
    values[index] = or_none(one.value);
    given |= uint64_t{1} << index;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const Input& input = part.inputs[i];
    if ((given >> i & 1) != 0 || input.is_tensor()) continue;
    const c10::IValue* const own = call.find(input.name);
    TORCH_INTERNAL_ASSERT(own, call.op().name, " gives no value for ", input.name, " of ",
                          part.name);
    values[i] = *own;
  }
  return values;
}

Tensors meta_outputs(const Call& call) {
  Tensors outputs;
  for (const OutputPlan& output : plan_outputs(call)) {
    const auto options = at::TensorOptions().dtype(scalar_type(output.dtype)).device(c10::kMeta);
    outputs.push_back(output.strides.empty()
                          ? at::empty(output.sizes, options)
                          : at::empty_strided(output.sizes, output.strides, options));
  }
  return outputs;
}

}  // namespace

CompositeCall::CompositeCall(const Op& op, c10::ArrayRef<c10::IValue> values)
    : op_(op), values_(values) {
  const c10::Device where = device_of(op, values);
  check_call(call_of(op, values, {}));
  records_ = where.is_meta();
  place_ = records_ ? place_on(prepare_target()) : place_of(where);
}

Tensors CompositeCall::run(const Op& part, std::initializer_list<Named> named, bool spare) const {
  const Values values = in_order(*this, part, named);
  if (!records_) return execute(part, values, op_);
  const Call call = call_of(part, values, place_);
  prepare(call, spare);
  return meta_outputs(call);
}

}  // namespace liger::torch_bindings
