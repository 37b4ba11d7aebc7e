// The way of one call: torch values in, outputs out.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/SmallVector.h>

#include "engine/op.h"

namespace liger::torch_bindings {

using Tensors = c10::SmallVector<at::Tensor, 8>;

// Runs the kernels of `op` on torch's current stream. `inputs` in the order of the declaration.
// Raises Error. A fault that a kernel finds is told of `blamed`, an op of the registry.
Tensors execute(const Op& op, c10::ArrayRef<c10::IValue> inputs, const Op& blamed);

// Opens the device where it is not open yet.
Place place_of(c10::Device where);

// The device of all tensors. Raises Error(invalid_argument) when they are on several, or there is
// none. A single number on the CPU is no exception among tensors of a GPU: kernels read it where it
// is, and to bring it there would wait.
c10::Device device_of(const Op& op, c10::ArrayRef<c10::IValue> inputs);

// An op without kernels of its own is made of others; it runs here, also on meta tensors where a
// recorder is open (composite_call.h). Found by the op's name.
using Composite = Tensors (*)(const Op& op, c10::ArrayRef<c10::IValue> inputs);
struct RegisterComposite {
  RegisterComposite(const char* op, Composite composite);
};
Composite composite_of(const Op& op);

// The call that the values stand for, at a place; for meta tensors.
Call call_of(const Op& op, c10::ArrayRef<c10::IValue> inputs, Place place);

}  // namespace liger::torch_bindings
