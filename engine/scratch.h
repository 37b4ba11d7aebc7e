// Memory of a search's tensors, outside torch's allocator: small numbers, as training has them.
#pragma once

#include <vector>

#include "runtime/device/device.h"

namespace liger {

class Scratch {
 public:
  explicit Scratch(Device& device) : device_(device) {}
  Scratch(const Scratch&) = delete;
  ~Scratch();

  // Lives as long as this object; null when there is not enough. Zeros if not `floating`. Filled by
  // copies that `Device::synchronize` waits for.
  void* take(int64_t size_bytes, bool floating);

 private:
  void* reserve(int64_t size_bytes);
  const void* pattern_on_device(bool floating);

  Device& device_;
  std::vector<void*> memory_;
  void* noise_on_device_ = nullptr;
  void* zeros_on_device_ = nullptr;
};

}  // namespace liger
