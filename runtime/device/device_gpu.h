// What the CUDA driver and the HIP runtime have in common: functions of the same shape under two
// names.
#pragma once

#include <string>

#include "runtime/device/device.h"

namespace liger {

// CUDA's way to launch with attributes.
struct LaunchAttribute {  // CUlaunchAttribute
  int name;
  char unused[4];
  union {
    char space[64];
    int value;
  };
};

struct LaunchConfig {  // CUlaunchConfig
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  void* stream;
  const LaunchAttribute* attributes;
  unsigned attribute_count;
};

// Results are the vendor's error numbers, 0 for success; handles are the vendor's pointers. The
// comments give the names in CUDA; HIP has the same signatures at the level of the ABI.
// Filled once by its vendor's file before the first device is made, and then only read.
struct GpuFunctions {
  std::string (*words)(int result) = nullptr;
  int (*module_load)(void** module, const void* image);                     // cuModuleLoadData
  int (*module_function)(void** function, void* module, const char* name);  // cuModuleGetFunction
  int (*function_load)(void* function);                                     // cuFuncLoad, or null
  int (*set_attribute)(void* function, int attribute,
                       int value) = nullptr;  // cuFuncSetAttribute, or null
  int (*launch)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream,
                void** parameters, void** extra);  // cuLaunchKernel
  int (*launch_with)(const LaunchConfig* config, void* function, void** parameters,
                     void** extra) = nullptr;  // cuLaunchKernelEx, or null
  int (*capture_info)(void* stream, int* status, uint64_t* id, void** graph,
                      const void** dependencies,
                      size_t* dependency_count);      // cuStreamGetCaptureInfo_v2
  int (*exchange_capture_mode)(int* mode);            // cuThreadExchangeStreamCaptureMode, or null
  int (*synchronize)();                               // cuCtxSynchronize
  int (*allocate)(void** memory, size_t size_bytes);  // cuMemAlloc_v2
  int (*release)(void* memory);                       // cuMemFree_v2
  int (*copy_to_device)(void* device, const void* host, size_t size_bytes);  // cuMemcpyHtoD_v2
  int (*copy_on_device)(void* to, const void* from, size_t size_bytes);      // cuMemcpyDtoD_v2
  int (*host_allocate)(void** memory, size_t size_bytes, unsigned flags);    // cuMemHostAlloc
  int (*host_device_pointer)(void** device, void* host,
                             unsigned flags);                // cuMemHostGetDevicePointer_v2
  int (*event_create)(void** event, unsigned flags);         // cuEventCreate
  int (*event_destroy)(void* event);                         // cuEventDestroy_v2
  int (*event_record)(void* event, void* stream);            // cuEventRecord
  int (*event_synchronize)(void* event);                     // cuEventSynchronize
  int (*event_elapsed)(float* ms, void* first, void* last);  // cuEventElapsedTime
};

// Nearest power of two of the GB/s that two transfers a clock give; 0 when not known.
int bandwidth_class(int64_t clock_khz, int64_t bus_bits);

// As Device says. Its members are set by the vendor's constructor and then only read; what is
// current belongs to the calling thread and is put back as it was.
class GpuDevice : public Device {
 public:
  explicit GpuDevice(const GpuFunctions& functions) : functions_(functions) {}

  const DeviceProperties& properties() const override { return properties_; }
  Function* load(const Binary& binary, const std::string& symbol) override;
  void allow_shared(Function* function, int shared_bytes) override;
  void launch(Function* function, int64_t blocks, int threads, const void* arguments,
              size_t arguments_bytes, Stream stream, int shared_bytes) override;
  uint64_t capture(Stream stream) override;
  void synchronize() override;
  void* allocate(size_t size_bytes) override;
  void release(void* memory) override;
  bool write(void* memory, const void* host_memory, size_t size_bytes) override;
  bool copy(void* to, const void* from, size_t size_bytes) override;
  double time_ms(Stream stream, const std::function<void()>& work) override;
  Fault* fault() override { return fault_; }
  void* fault_pointer() override { return fault_pointer_; }

 protected:
  static constexpr int nothing_to_undo = -1;

  // Makes this device the calling thread's; the result goes to leave(), unless it is
  // nothing_to_undo.
  virtual int enter() = 0;
  virtual void leave(int token) = 0;

  void check(int result, const char* action) const;
  void allocate_fault();  // once, by the constructor of the vendor's device

  const GpuFunctions& functions_;
  DeviceProperties properties_;
  // Kernels wait for the one before them by themselves, so they are started before it has ended.
  bool starts_early_ = false;

 private:
  class Current;  // this device is the thread's, within a scope
  class Relaxed;  // as Current, and calls that a capture on another thread forbids are allowed

  Fault* fault_ = nullptr;
  void* fault_pointer_ = nullptr;
};

}  // namespace liger
