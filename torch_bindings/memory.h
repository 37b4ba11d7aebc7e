// Outputs and workspaces of a call, straight from torch's allocators: an operator that allocates
// costs the host as much as a small kernel.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>

#include "engine/plan.h"

namespace liger::torch_bindings {

// On a GPU, that device must be the thread's current one.
class Memory {
 public:
  explicit Memory(c10::Device device);

  at::Tensor tensor(const OutputPlan& plan) const;
  c10::DataPtr bytes(int64_t count) const;

 private:
  c10::Allocator* allocator_;
  c10::DispatchKeySet keys_;
};

}  // namespace liger::torch_bindings
