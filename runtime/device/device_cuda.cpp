// NVIDIA's driver, opened at run time. Names and numbers are those of its ABI.
#include <array>

#include "base/error.h"
#include "base/shared_library.h"
#include "base/text.h"
#include "runtime/backends.h"
#include "runtime/device/device_gpu.h"

namespace liger {
namespace {

using Context = void*;

enum Attribute : int {  // CUdevice_attribute
  shared_memory_per_block = 8,
  multiprocessor_count = 16,
  memory_clock_khz = 36,
  memory_bus_bits = 37,
  l2_cache_bytes = 38,
  compute_capability_major = 75,
  compute_capability_minor = 76,
};

struct Driver {
  Driver();

  SharedLibrary library{{"libcuda.so.1", "libcuda.so", "/usr/lib/wsl/lib/libcuda.so.1"}};
  std::string problem;
  int device_count = 0;
  int version = 0;  // 12030: CUDA 12.3

  GpuFunctions functions;
  int (*initialise)(unsigned flags);
  int (*driver_version)(int*);
  int (*count)(int*);
  int (*get)(int* device, int ordinal);
  int (*name)(char* name, int capacity, int device);
  int (*attribute)(int* value, int attribute, int device);
  int (*primary_context)(Context*, int device);
  int (*current_context)(Context*);
  int (*set_current)(Context);
  int (*push_current)(Context);
  int (*pop_current)(Context*);
  int (*encode_tiles)(TensorMap*, int type, unsigned dims, void* data, const uint64_t* sizes,
                      const uint64_t* strides, const unsigned* tile, const unsigned* steps,
                      int interleave, int swizzle, int promotion, int fill);  // or null
  int (*error_name)(int, const char**);
  int (*error_text)(int, const char**);
};

const Driver& driver() {
  static const Driver* const the_driver = new Driver;  // the driver does not survive being closed
  return *the_driver;
}

std::string words(int result) {
  const char* name = nullptr;
  const char* text = nullptr;
  driver().error_name(result, &name);
  driver().error_text(result, &text);
  return fmt::format("{} ({})", name ? name : "error", text ? text : fmt::format("{}", result));
}

Driver::Driver() {
  if (!library.found()) {
    problem = fmt::format(
        "the NVIDIA driver (libcuda.so.1) was not found: install it, or run the "
        "container with GPUs. Looked for:\n{}",
        library.trace());
    return;
  }
  const auto bind = [&](auto*& function, const char* name) {
    function = library.function<std::remove_reference_t<decltype(*function)>>(name);
    if (!function && problem.empty())
      problem = fmt::format("{} has no {}: a driver for CUDA 12 (525 or newer) is needed",
                            library.path(), name);
  };
  functions.words = words;
  bind(functions.module_load, "cuModuleLoadData");
  bind(functions.module_function, "cuModuleGetFunction");
  bind(functions.set_attribute, "cuFuncSetAttribute");
  bind(functions.launch, "cuLaunchKernel");
  bind(functions.capture_info, "cuStreamGetCaptureInfo_v2");
  bind(functions.exchange_capture_mode, "cuThreadExchangeStreamCaptureMode");
  bind(functions.synchronize, "cuCtxSynchronize");
  bind(functions.allocate, "cuMemAlloc_v2");
  bind(functions.release, "cuMemFree_v2");
  bind(functions.copy_to_device, "cuMemcpyHtoD_v2");
  bind(functions.copy_on_device, "cuMemcpyDtoD_v2");
  bind(functions.host_allocate, "cuMemHostAlloc");
  bind(functions.host_device_pointer, "cuMemHostGetDevicePointer_v2");
  bind(functions.event_create, "cuEventCreate");
  bind(functions.event_destroy, "cuEventDestroy_v2");
  bind(functions.event_record, "cuEventRecord");
  bind(functions.event_synchronize, "cuEventSynchronize");
  bind(functions.event_elapsed, "cuEventElapsedTime");
  bind(initialise, "cuInit");
  bind(driver_version, "cuDriverGetVersion");
  bind(count, "cuDeviceGetCount");
  bind(get, "cuDeviceGet");
  bind(name, "cuDeviceGetName");
  bind(attribute, "cuDeviceGetAttribute");
  bind(primary_context, "cuDevicePrimaryCtxRetain");
  bind(current_context, "cuCtxGetCurrent");
  bind(set_current, "cuCtxSetCurrent");
  bind(push_current, "cuCtxPushCurrent_v2");
  bind(pop_current, "cuCtxPopCurrent_v2");
  bind(error_name, "cuGetErrorName");
  bind(error_text, "cuGetErrorString");
  functions.function_load = library.function<int(void*)>("cuFuncLoad");  // since 12.4
  encode_tiles =
      library.function<std::remove_reference_t<decltype(*encode_tiles)>>("cuTensorMapEncodeTiled");
  functions.launch_with =
      library.function<int(const LaunchConfig*, void*, void**, void**)>("cuLaunchKernelEx");
  if (!problem.empty()) return;

  int result = initialise(0);
  if (result == 0) result = driver_version(&version);
  if (result == 0) result = count(&device_count);
  if (result != 0 || device_count == 0) {
    const char* why = nullptr;
    if (result != 0) error_text(result, &why);
    problem = fmt::format("the NVIDIA driver {} sees no GPU: {}", library.path(),
                          why ? why : "its count is 0");
    device_count = 0;
  }
}

// From 9.0 on, the instructions that matter are in the set of this very architecture.
std::string arch_name(int major, int minor) {
  return fmt::format("sm_{}{}{}", major, minor, major >= 9 ? "a" : "");
}

class CudaDevice final : public GpuDevice {
 public:
  explicit CudaDevice(int ordinal) : GpuDevice(driver().functions) {
    properties_.target.backend = Backend::cuda;
    check(driver().get(&device_, ordinal), "opening the device");
    std::array<char, 256> name{};
    driver().name(name.data(), static_cast<int>(name.size()) - 1, device_);
    properties_.name = name.data();
    const int major = attribute(compute_capability_major);
    properties_.target.arch = arch_name(major, attribute(compute_capability_minor));
    // Kernels wait by themselves from 9.0 on. Drivers before 12.3 cannot capture such a launch, and
    // it is reported of chips of 12.x that they cannot either.
    starts_early_ =
        (major == 9 || major == 10) && functions_.launch_with && driver().version >= 12030;
    has_tile_engine_ = major >= 9 && driver().encode_tiles;
    properties_.multiprocessors = attribute(multiprocessor_count);
    properties_.l2_bytes = attribute(l2_cache_bytes);
    properties_.shared_bytes_per_block = attribute(shared_memory_per_block);
    properties_.bandwidth_class =
        bandwidth_class(attribute(memory_clock_khz), attribute(memory_bus_bits));
    check(driver().primary_context(&context_, device_), "retaining the primary context");
    allocate_fault();
  }

  TensorMap tensor_map_of(const TiledMatrix& matrix) override {
    constexpr int bfloat16 = 9, not_interleaved = 0, swizzle_of_128_bytes = 3;
    constexpr int promote_to_256_bytes = 3, fill_with_zeros = 0;
    TensorMap map{};
    if (!has_tile_engine_ || !matrix.data) return map;
    const uint64_t sizes[] = {static_cast<uint64_t>(matrix.columns),
                              static_cast<uint64_t>(matrix.rows),
                              static_cast<uint64_t>(matrix.matrices)};
    const uint64_t strides[] = {static_cast<uint64_t>(matrix.row_bytes),
                                static_cast<uint64_t>(matrix.row_bytes * matrix.rows)};
    const unsigned tile[] = {static_cast<unsigned>(matrix.tile_columns),
                             static_cast<unsigned>(matrix.tile_rows), 1};
    const unsigned steps[] = {1, 1, 1};
    const unsigned dims = matrix.matrices == 0 ? 2 : 3;
    check(driver().encode_tiles(&map, bfloat16, dims, matrix.data, sizes, strides, tile, steps,
                                not_interleaved, swizzle_of_128_bytes, promote_to_256_bytes,
                                fill_with_zeros),
          "describing a matrix for copies of tiles");
    return map;
  }

 protected:
  int enter() override {
    Context current = nullptr;
    check(driver().current_context(&current), "asking for the current context");
    if (current == context_) return nothing_to_undo;
    if (!current) {  // a thread that has not used CUDA yet
      check(driver().set_current(context_), "setting the context");
      return nothing_to_undo;
    }
    check(driver().push_current(context_), "pushing the context");
    return 0;
  }

  void leave(int) override {
    Context popped = nullptr;
    driver().pop_current(&popped);
  }

 private:
  int attribute(Attribute which) const {
    int value = 0;
    check(driver().attribute(&value, which, device_), "reading an attribute");
    return value;
  }

  int device_ = 0;
  bool has_tile_engine_ = false;
  Context context_ = nullptr;
};

}  // namespace

int cuda_device_count() { return driver().device_count; }
std::string cuda_problem() { return driver().problem; }
std::unique_ptr<Device> make_cuda_device(int ordinal) {
  return std::make_unique<CudaDevice>(ordinal);
}

}  // namespace liger
