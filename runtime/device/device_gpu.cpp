#include "runtime/device/device_gpu.h"

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/text.h"

namespace liger {
namespace {

constexpr int capture_implicit = 906;  // the legacy stream, while another stream records a graph
constexpr int capture_active = 1;
constexpr int capture_mode_relaxed = 2;
constexpr uint64_t unknown_capture = std::numeric_limits<uint64_t>::max();
constexpr int most_shared_of_launch = 8;
// Programmatic stream serialization.
constexpr LaunchAttribute start_early{.name = 6, .unused = {}, .value = 1};
constexpr unsigned host_portable = 1;
constexpr unsigned host_mapped = 2;

}  // namespace

int bandwidth_class(int64_t clock_khz, int64_t bus_bits) {
  const double gigabytes_a_second =
      2.0 * static_cast<double>(clock_khz) * 1e3 * static_cast<double>(bus_bits) / 8 / 1e9;
  if (gigabytes_a_second < 1) return 0;
  return 1 << std::lround(std::log2(gigabytes_a_second));
}

class GpuDevice::Current {
 public:
  explicit Current(GpuDevice& device) : device_(device), token_(device.enter()) {}
  ~Current() {
    if (token_ != nothing_to_undo) device_.leave(token_);
  }
  Current(const Current&) = delete;

 private:
  GpuDevice& device_;
  const int token_;
};

class GpuDevice::Relaxed {
 public:
  explicit Relaxed(GpuDevice& device)
      : current_(device), exchange_(device.functions_.exchange_capture_mode) {
    if (exchange_) exchange_(&mode_);
  }
  ~Relaxed() {
    if (exchange_) exchange_(&mode_);
  }
  Relaxed(const Relaxed&) = delete;

 private:
  const Current current_;
  int (*const exchange_)(int*);
  int mode_ = capture_mode_relaxed;
};

void GpuDevice::check(int result, const char* action) const {
  if (result == 0) return;
  throw Error(ErrorKind::device,
              fmt::format("{} {}: {} failed: {}", name_of(properties_.target.backend),
                          properties_.name, action, functions_.words(result)));
}

void GpuDevice::allocate_fault() {
  const Relaxed scope(*this);
  void* memory = nullptr;
  check(functions_.host_allocate(&memory, sizeof(Fault), host_portable | host_mapped),
        "allocating host memory");
  fault_ = new (memory) Fault{};
  check(functions_.host_device_pointer(&fault_pointer_, memory, 0), "mapping host memory");
}

Function* GpuDevice::load(const Binary& binary, const std::string& symbol) {
  const Relaxed scope(*this);
  void* module = nullptr;
  check(functions_.module_load(&module, binary.bytes.data()), "loading a kernel");
  void* function = nullptr;
  check(functions_.module_function(&function, module, symbol.c_str()), "finding a kernel");
  // Now and not lazily at the first launch, which may be in a capture.
  if (functions_.function_load) check(functions_.function_load(function), "loading a kernel");
  return static_cast<Function*>(function);
}

void GpuDevice::allow_shared(Function* function, int shared_bytes) {
  if (shared_bytes == 0 || !functions_.set_attribute) return;
  const Relaxed scope(*this);
  check(functions_.set_attribute(function, most_shared_of_launch, shared_bytes),
        "asking for shared memory");
}

void GpuDevice::launch(Function* function, int64_t blocks, int threads, const void* arguments,
                       size_t, Stream stream, int shared_bytes) {
  if (blocks <= 0) return;
  if (blocks > std::numeric_limits<int32_t>::max())
    throw Error(ErrorKind::invalid_argument,
                fmt::format("a launch of {} blocks: a grid holds at most 2^31 - 1", blocks));
  const Current scope(*this);
  void* parameters[] = {const_cast<void*>(arguments)};
  const LaunchConfig config{{static_cast<unsigned>(blocks), 1, 1},
                            {static_cast<unsigned>(threads), 1, 1},
                            static_cast<unsigned>(shared_bytes),
                            stream,
                            &start_early,
                            1};
  check(starts_early_ ? functions_.launch_with(&config, function, parameters, nullptr)
                      : functions_.launch(function, config.grid[0], 1, 1, config.block[0], 1, 1,
                                          config.shared_bytes, stream, parameters, nullptr),
        "a launch");
}

uint64_t GpuDevice::capture(Stream stream) {
  const Current scope(*this);
  int status = 0;
  uint64_t id = 0;
  const int result = functions_.capture_info(stream, &status, &id, nullptr, nullptr, nullptr);
  if (result == capture_implicit) return unknown_capture;
  check(result, "asking whether a stream is captured");
  if (status == 0) return 0;
  return status == capture_active ? id : unknown_capture;
}

void GpuDevice::synchronize() {
  const Current scope(*this);
  check(functions_.synchronize(), "waiting for the device");
}

void* GpuDevice::allocate(size_t size_bytes) {
  const Relaxed scope(*this);
  void* memory = nullptr;
  return functions_.allocate(&memory, size_bytes) == 0 ? memory : nullptr;
}

void GpuDevice::release(void* memory) {
  const Relaxed scope(*this);
  functions_.release(memory);
}

bool GpuDevice::write(void* memory, const void* host_memory, size_t size_bytes) {
  const Relaxed scope(*this);
  return functions_.copy_to_device(memory, host_memory, size_bytes) == 0;
}

bool GpuDevice::copy(void* to, const void* from, size_t size_bytes) {
  const Relaxed scope(*this);
  return functions_.copy_on_device(to, from, size_bytes) == 0;
}

double GpuDevice::time_ms(Stream stream, const std::function<void()>& work) {
  const Relaxed scope(*this);
  struct Event {
    const GpuFunctions& functions;
    void* handle = nullptr;
    ~Event() {
      if (handle) functions.event_destroy(handle);
    }
  };
  Event first{functions_}, last{functions_};
  check(functions_.event_create(&first.handle, 0), "making an event");
  check(functions_.event_create(&last.handle, 0), "making an event");
  check(functions_.event_record(first.handle, stream), "recording an event");
  work();
  check(functions_.event_record(last.handle, stream), "recording an event");
  check(functions_.event_synchronize(last.handle), "waiting for an event");
  float ms = 0;
  check(functions_.event_elapsed(&ms, first.handle, last.handle), "reading a time");
  return ms;
}

}  // namespace liger
