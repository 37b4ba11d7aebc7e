// AMD's HIP runtime, opened at run time. Names and numbers are those of its ABI.
#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"
#include "base/shared_library.h"
#include "base/text.h"
#include "runtime/backends.h"
#include "runtime/compile/hip_libraries.h"
#include "runtime/device/device_gpu.h"

namespace liger {
namespace {

enum Attribute : int {  // hipDeviceAttribute_t
  l2_cache_bytes = 19,
  memory_bus_bits = 59,
  memory_clock_khz = 60,
  multiprocessor_count = 63,
  shared_memory_per_block = 74,
};

struct Runtime {
  Runtime();

  SharedLibrary library{hip_runtime_candidates()};
  std::string problem;
  int device_count = 0;

  GpuFunctions functions;
  int (*count)(int*);
  int (*get_device)(int*);
  int (*set_device)(int);
  int (*name)(char* name, int capacity, int device);
  int (*attribute)(int* value, int attribute, int device);
  int (*device_properties)(void* properties, int device);
  const char* (*error_name)(int);
  const char* (*error_text)(int);
};

const Runtime& runtime() {
  static const Runtime* const the_runtime = new Runtime;  // it does not survive being closed
  return *the_runtime;
}

std::string words(int result) {
  return fmt::format("{} ({})", runtime().error_name(result), runtime().error_text(result));
}

Runtime::Runtime() {
  if (!library.found()) {
    problem = fmt::format(
        "AMD's HIP runtime (libamdhip64.so) was not found: install ROCm or set "
        "LIGER_JIT_HIP to it. Looked for:\n{}",
        library.trace());
    return;
  }
  const auto bind = [&](auto*& function, const char* name) {
    function = library.function<std::remove_reference_t<decltype(*function)>>(name);
    if (!function && problem.empty())
      problem = fmt::format("{} has no {}: ROCm 5 or newer is needed", library.path(), name);
  };
  functions.words = words;
  bind(functions.module_load, "hipModuleLoadData");
  bind(functions.module_function, "hipModuleGetFunction");
  bind(functions.launch, "hipModuleLaunchKernel");
  bind(functions.capture_info, "hipStreamGetCaptureInfo_v2");
  bind(functions.synchronize, "hipDeviceSynchronize");
  bind(functions.allocate, "hipMalloc");
  bind(functions.release, "hipFree");
  bind(functions.copy_to_device, "hipMemcpyHtoD");
  bind(functions.copy_on_device, "hipMemcpyDtoD");
  bind(functions.host_allocate, "hipHostMalloc");
  bind(functions.host_device_pointer, "hipHostGetDevicePointer");
  bind(functions.event_create, "hipEventCreateWithFlags");
  bind(functions.event_destroy, "hipEventDestroy");
  bind(functions.event_record, "hipEventRecord");
  bind(functions.event_synchronize, "hipEventSynchronize");
  bind(functions.event_elapsed, "hipEventElapsedTime");
  bind(count, "hipGetDeviceCount");
  bind(get_device, "hipGetDevice");
  bind(set_device, "hipSetDevice");
  bind(name, "hipDeviceGetName");
  bind(attribute, "hipDeviceGetAttribute");
  bind(error_name, "hipGetErrorName");
  bind(error_text, "hipGetErrorString");
  functions.function_load = nullptr;  // HIP loads at once
  functions.exchange_capture_mode =
      library.function<int(int*)>("hipThreadExchangeStreamCaptureMode");
  device_properties = library.function<int(void*, int)>("hipGetDevicePropertiesR0600");
  if (!device_properties) bind(device_properties, "hipGetDeviceProperties");
  if (!problem.empty()) return;

  const int result = count(&device_count);
  if (result != 0 || device_count == 0) {
    problem = fmt::format("the HIP runtime {} sees no GPU: {}", library.path(),
                          result != 0 ? error_text(result) : "its count is 0");
    device_count = 0;
  }
}

// gfx90a:sramecc+:xnack-. The structure differs between releases, but it starts with the 256 bytes
// of the marketing name, and the first "gfx" after them is the name of the architecture.
std::string arch_name(int ordinal) {
  std::array<char, 8192> properties{};
  if (runtime().device_properties(properties.data(), ordinal) != 0) return {};
  const std::string_view bytes(properties.data(), properties.size());
  const size_t start = bytes.find("gfx", 256);
  if (start == std::string_view::npos) return {};
  return std::string(bytes.substr(start, bytes.find('\0', start) - start));
}

class HipDevice final : public GpuDevice {
 public:
  explicit HipDevice(int ordinal) : GpuDevice(runtime().functions), ordinal_(ordinal) {
    properties_.target = {Backend::hip, arch_name(ordinal)};
    std::array<char, 256> name{};
    runtime().name(name.data(), static_cast<int>(name.size()) - 1, ordinal);
    properties_.name = name.data();
    if (properties_.target.arch.empty())
      throw Error(ErrorKind::device,
                  fmt::format("HIP device {} ({}) does not tell its architecture", ordinal,
                              properties_.name));
    properties_.multiprocessors = attribute(multiprocessor_count);
    properties_.l2_bytes = attribute(l2_cache_bytes);
    properties_.shared_bytes_per_block = attribute(shared_memory_per_block);
    properties_.bandwidth_class =
        bandwidth_class(attribute(memory_clock_khz), attribute(memory_bus_bits));
    allocate_fault();
  }

 protected:
  int enter() override {
    int current = 0;
    check(runtime().get_device(&current), "asking for the current device");
    if (current == ordinal_) return nothing_to_undo;
    check(runtime().set_device(ordinal_), "setting the device");
    return current;
  }

  void leave(int previous) override { runtime().set_device(previous); }

 private:
  int attribute(Attribute which) const {
    int value = 0;
    check(runtime().attribute(&value, which, ordinal_), "reading an attribute");
    return value;
  }

  const int ordinal_;
};

}  // namespace

int hip_device_count() { return runtime().device_count; }
std::string hip_problem() { return runtime().problem; }
std::unique_ptr<Device> make_hip_device(int ordinal) {
  return std::make_unique<HipDevice>(ordinal);
}

}  // namespace liger
