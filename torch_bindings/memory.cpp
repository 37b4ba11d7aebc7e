#include "torch_bindings/memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>

#include "torch_bindings/tensor.h"

namespace liger::torch_bindings {

// Asked for at each call: a user may exchange the allocator.
Memory::Memory(c10::Device device)
    : allocator_(device.is_cpu() ? c10::GetCPUAllocator()
                                 : at::detail::getCUDAHooks().getCUDADeviceAllocator()),
      keys_(device.is_cpu() ? c10::DispatchKey::CPU : c10::DispatchKey::CUDA) {}

at::Tensor Memory::tensor(const OutputPlan& plan) const {
  const at::ScalarType type = scalar_type(plan.dtype);
  return plan.strides.empty()
             ? at::detail::empty_generic(plan.sizes, allocator_, keys_, type, std::nullopt)
             : at::detail::empty_strided_generic(plan.sizes, plan.strides, allocator_, keys_, type);
}

c10::DataPtr Memory::bytes(int64_t count) const {
  return allocator_->allocate(static_cast<size_t>(count));
}

}  // namespace liger::torch_bindings
