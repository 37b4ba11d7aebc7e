#include <ATen/autocast_mode.h>

#include "torch_bindings/kernels.h"

namespace liger::torch_bindings {

void AutocastKernel::operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet,
                                Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard guard(
      at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const size_t base = stack->size() - op.inputs.size();
  for (const std::string& name : op.autocast_inputs) {
    c10::IValue& value = (*stack)[base + op.input_index(name)];
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    value = at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), value.toTensor(),
                                      device);
  }
  handle.callBoxed(stack);
}

}  // namespace liger::torch_bindings
