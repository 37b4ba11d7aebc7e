// Machine code to a launch. One interface, three devices: CUDA driver, HIP runtime, host threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/compile/compiler.h"
#include "runtime/compile/target.h"

namespace liger {

struct DeviceProperties {
  Target target;
  std::string name;         // for people; in no key
  int multiprocessors = 1;  // on the host: threads of the pool
  int64_t l2_bytes = 0;
  int64_t shared_bytes_per_block = 0;
  int bandwidth_class =
      0;  // GB/s from bus width and clock, rounded to a power of two; 0: not known
};

// What a kernel found wrong with its data (a label out of range): written by the kernel, read by
// the host without a synchronisation. Lives in memory that both can reach. Kernels and threads
// share it: who moves `state` on has the fields. templates/device/fault.h has the same record, and
// units assert that it is (`fault_layout`).
struct Fault {
  static constexpr int64_t empty = 0;      // a kernel may take it
  static constexpr int64_t taken = 1;      // a kernel is writing the fields
  static constexpr int64_t published = 2;  // the fields are whole, the host may read them
  static constexpr int64_t reading = 3;    // a thread of the host does

  std::atomic<int64_t> state = empty;
  volatile int64_t blamed = 0;  // the op, and what its kernel checks: addresses of the host's, with
  volatile int64_t check = 0;   // which the kernel was launched
  volatile int64_t place = 0;   // of the value, counted from the input's first
  volatile int64_t value = 0;
  volatile int64_t limit = 0;  // 0 to limit - 1 are allowed
};

// The lines of a unit by which a kernel with another record does not compile.
std::string fault_layout();

// A kernel loaded on one device. Never unloaded: captured graphs may hold it. Any thread may launch
// it.
struct Function;

// A matrix of two-byte elements as GPUs with an engine for copies of tiles are told of it.
struct TiledMatrix {
  void* data = nullptr;
  int64_t rows;
  int64_t columns;
  int64_t row_bytes;  // from one row to the next, a multiple of 16
  int tile_rows;
  int tile_columns;  // 64 at most: 128 bytes, which shared memory has in swizzled order
  // One after another in memory; a tile ends with its matrix, and is found by three coordinates. 0:
  // there is one, and tiles are found by two.
  int64_t matrices = 0;
};
struct alignas(64) TensorMap {  // CUtensorMap
  uint64_t words[16];
};

using Stream = void*;  // the vendor's stream handle; null on the host

// Thread safe, but for times: two threads that take them at once time each other. Owned by the
// process, never destroyed. What the driver refuses raises Error(device) with its words, unless the
// function says otherwise.
class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceProperties& properties() const = 0;

  // `symbol`: of the function that is launched.
  virtual Function* load(const Binary& binary, const std::string& symbol) = 0;

  // Before launches of a function with that much shared memory.
  virtual void allow_shared(Function* function, int shared_bytes) = 0;

  // Zeros where the device has no such engine.
  virtual TensorMap tensor_map_of(const TiledMatrix&) { return {}; }

  // `arguments` is the kernel struct, passed by value. Asynchronous on a GPU. `threads` are those
  // of a block; on the host, where a block is one thread, the blocks that one thread takes at
  // least.
  virtual void launch(Function* function, int64_t blocks, int threads, const void* arguments,
                      size_t arguments_bytes, Stream stream, int shared_bytes = 0) = 0;

  // The graph that `stream` records, by a number that the process sees once; 0: none.
  virtual uint64_t capture(Stream stream) = 0;
  // While it records one nothing may be loaded, allocated or tuned.
  bool capturing(Stream stream) { return capture(stream) != 0; }
  // Waits for all work of all streams.
  virtual void synchronize() = 0;

  // Memory for tuning only, outside torch's allocator. Null when there is not enough.
  virtual void* allocate(size_t size_bytes) = 0;
  virtual void release(void* memory) = 0;
  virtual bool write(void* memory, const void* host_memory, size_t size_bytes) = 0;
  // Between two places of it; may return before it is done.
  virtual bool copy(void* to, const void* from, size_t size_bytes) = 0;

  // Device time of `work`, which launches on `stream`, in milliseconds.
  virtual double time_ms(Stream stream, const std::function<void()>& work) = 0;

  // The record that all kernels of the device share, and the same memory as a kernel sees it. Null
  // on the host, where every call brings its own.
  virtual Fault* fault() = 0;
  virtual void* fault_pointer() = 0;
};

// Number of devices of that backend that can be used now; 0 when the driver is missing.
int device_count(Backend backend);

// One for each ordinal, made on first use, never destroyed. Raises Error(device) that lists where
// the driver was looked for and what to install.
Device& device(Backend backend, int ordinal);

// Those that `device()` has made so far.
std::vector<Device*> open_devices(Backend backend);

// What `device()` would say is missing, or empty. Never raises.
std::string device_problem(Backend backend);

// How the host device spreads blocks over threads: calls body(first, last) for parts of [0, count).
// torch_bindings sets torch's pool, while the library is loaded; until then blocks run in order on
// the calling thread.
using ParallelFor = void (*)(int64_t count, int64_t grain,
                             const std::function<void(int64_t, int64_t)>& body);
void set_parallel_for(ParallelFor parallel_for, int threads);

}  // namespace liger
