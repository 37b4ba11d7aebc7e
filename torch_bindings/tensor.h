// Between torch's tensors and the core's.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include "base/error.h"
#include "engine/op.h"
#include "engine/plan_table.h"
#include "runtime/device/device.h"

namespace liger::torch_bindings {

// Raises Error(invalid_argument) for a dtype that no kernel knows.
Dtype dtype_of(const at::Tensor& tensor, const Op& op, const Input& input);
at::ScalarType scalar_type(Dtype dtype);

// Sizes and strides as they are; align_bytes from the data pointer, 16 for a meta tensor. Symbolic
// sizes become zeros.
Tensor describe(const at::Tensor& tensor, const Op& op, const Input& input);

// A flag, an integer, a real or a mask as the core has it.
Scalar scalar_of(const c10::IValue& value, InputKind kind);

// None, undefined, or the [0] tensor that stands for an output that was not wanted.
bool absent(const c10::IValue& value, const Input& input);

// CUDA and ROCm builds of torch both call their device CUDA.
Backend backend_of(c10::Device device);

// Turns the core's error into torch's: ValueError for an argument, NotImplementedError for what is
// not supported, RuntimeError for the rest.
[[noreturn]] void raise_torch_error(const Error& error);

template <class Work>
auto with_torch_errors(Work&& work) {
  try {
    return work();
  } catch (const Error& error) {
    raise_torch_error(error);
  }
}

}  // namespace liger::torch_bindings
