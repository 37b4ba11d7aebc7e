// Where torch runs a thread's work now.
#pragma once

#include <c10/core/Device.h>

#include "runtime/device/device.h"

namespace liger::torch_bindings {

// A device is the thread's, within a scope. As c10::DeviceGuard, but a device that already was the
// thread's is not set again: that asks the driver about its contexts.
class CurrentDevice {
 public:
  explicit CurrentDevice(c10::Device device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;

 private:
  const c10::Device device_;
  const c10::Device before_;
};

// The vendor's handle; null for the CPU.
Stream current_stream(c10::Device device);

}  // namespace liger::torch_bindings
