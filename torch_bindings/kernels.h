// The boxed kernels that every op of the registry gets, one for each dispatch key.
#pragma once

#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "engine/op.h"
#include "torch_bindings/wiring.h"

namespace liger::torch_bindings {

using Stack = torch::jit::Stack;

// Runs the op's kernels, or its composite.
struct BackendKernel final : c10::OperatorKernel {
  explicit BackendKernel(const Op& op) : op(op) {}
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack);
  const Op& op;
};

// Shapes and dtypes only; symbolic sizes pass through. Where a recorder is open (engine/prepare.h)
// the call is registered with it.
struct MetaKernel final : c10::OperatorKernel {
  explicit MetaKernel(const Op& op) : op(op) {}
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack);
  const Op& op;
};

// Builds the graph for an op with a gradient.
struct AutogradKernel final : c10::OperatorKernel {
  explicit AutogradKernel(const Op& op);
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack);
  const Wiring& wiring;
};

// For an op that overwrites inputs: refuses those that need a gradient, and bumps their versions.
struct MutableKernel final : c10::OperatorKernel {
  explicit MutableKernel(const Op& op) : op(op) {}
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack);
  const Op& op;
};

// Casts the listed inputs to autocast's dtype.
struct AutocastKernel final : c10::OperatorKernel {
  AutocastKernel(const Op& op, c10::DeviceType device) : op(op), device(device) {}
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack);
  const Op& op;
  c10::DeviceType device;
};

}  // namespace liger::torch_bindings
