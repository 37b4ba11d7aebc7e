#include "torch_bindings/place.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace liger::torch_bindings {

using c10::impl::VirtualGuardImpl;

CurrentDevice::CurrentDevice(c10::Device device)
    : device_(device),
      before_(device.is_cpu() ? device : VirtualGuardImpl(device.type()).exchangeDevice(device)) {}

CurrentDevice::~CurrentDevice() {
  if (before_ != device_) VirtualGuardImpl(before_.type()).uncheckedSetDevice(before_);
}

Stream current_stream(c10::Device device) {
  if (device.is_cpu()) return nullptr;
  const c10::Stream stream = VirtualGuardImpl(device.type()).getStream(device);
  // A stream keeps its handle, and to ask for it enters and leaves the device.
  thread_local c10::Stream known = stream;
  thread_local Stream handle = stream.native_handle();
  if (known != stream) {
    handle = stream.native_handle();
    known = stream;
  }
  return handle;
}

}  // namespace liger::torch_bindings
