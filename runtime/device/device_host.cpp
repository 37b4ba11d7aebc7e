// The processor itself: a kernel is a shared library, a launch is a loop over blocks.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/text.h"
#include "runtime/backends.h"
#include "runtime/private_folder.h"

namespace liger {
namespace {

using HostEntry = void(const void* arguments, long long first_block, long long last_block);

void in_order(int64_t count, int64_t, const std::function<void(int64_t, int64_t)>& body) {
  body(0, count);
}

std::atomic<ParallelFor> chosen_parallel_for{in_order};
std::atomic<int> chosen_threads{1};
std::atomic<DeviceProperties*> live_properties{nullptr};

bool write_all(int file, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// dlopen() returns an older library when it meets a path again, and descriptors are used again.
// Extra slashes and dots spell the number of the load, so that each path is a new one.
std::string unique_descriptor_path(int file) {
  static std::atomic<uint32_t> loads{0};
  std::string path = "/proc/self/fd";
  for (uint32_t number = ++loads; number != 0; number >>= 1) path += number & 1 ? "/." : "/";
  return fmt::format("{}/{}", path, file);
}

void* open_from_memory(std::string_view bytes, std::string& why) {
  const int file = memfd_create("liger_jit", MFD_CLOEXEC);
  void* library = nullptr;
  if (file >= 0 && write_all(file, bytes)) {
    library = dlopen(unique_descriptor_path(file).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) why = dlerror();
  } else {
    why = fmt::format("memory file: {}", strerror(errno));
  }
  if (file >= 0) close(file);
  return library;
}

// For a machine without memfd_create, or whose policy forbids running from it. A folder for
// temporary files may be full, or forbid running as well.
void* open_from_folder(std::string_view bytes, std::string& why) {
  for (const std::string& place : PrivateFolder::places()) {
    const PrivateFolder folder(place);
    if (folder.path().empty()) continue;
    const std::string path = folder.path() + "/unit.so";
    std::ofstream(path, std::ios::binary) << bytes;
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    why += fmt::format("; {}", dlerror());
  }
  return nullptr;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name"))
      return line.substr(std::min(line.size(), line.find(':') + 2));
  return "host";
}

class HostDevice final : public Device {
 public:
  HostDevice() {
    properties_.target = parse_target("cpu");
    properties_.name = processor_name();
    properties_.multiprocessors = chosen_threads;
    properties_.l2_bytes = std::max(0L, sysconf(_SC_LEVEL2_CACHE_SIZE));
    live_properties = &properties_;
  }

  const DeviceProperties& properties() const override { return properties_; }

  Function* load(const Binary& binary, const std::string& symbol) override {
    std::string why;
    void* library = open_from_memory(binary.bytes, why);
    if (!library) library = open_from_folder(binary.bytes, why);
    if (!library) throw Error(ErrorKind::device, "the loader refused a kernel: " + why);
    void* entry = dlsym(library, symbol.c_str());
    if (!entry) throw Error(ErrorKind::device, "a loaded kernel has no symbol " + symbol);
    return static_cast<Function*>(entry);
  }

  void allow_shared(Function*, int) override {}

  void launch(Function* function, int64_t blocks, int at_least, const void* arguments, size_t,
              Stream, int) override {
    if (blocks <= 0) return;
    HostEntry* entry = reinterpret_cast<HostEntry*>(function);
    const auto run = [=](int64_t first, int64_t last) { entry(arguments, first, last); };
    chosen_parallel_for.load(std::memory_order_relaxed)(blocks, at_least, run);
  }

  uint64_t capture(Stream) override { return 0; }
  void synchronize() override {}

  // The system promises more than it has, so a limit of ours stands for "not enough".
  void* allocate(size_t size_bytes) override {
    static const size_t limit_bytes = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) *
                                      static_cast<size_t>(sysconf(_SC_PAGESIZE)) / 4;
    if (size_bytes > limit_bytes) return nullptr;
    void* memory = nullptr;
    return posix_memalign(&memory, 256, size_bytes) == 0 ? memory : nullptr;
  }
  void release(void* memory) override { free(memory); }
  bool write(void* memory, const void* host_memory, size_t size_bytes) override {
    memcpy(memory, host_memory, size_bytes);
    return true;
  }

  bool copy(void* to, const void* from, size_t size_bytes) override {
    memcpy(to, from, size_bytes);
    return true;
  }

  double time_ms(Stream, const std::function<void()>& work) override {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
        .count();
  }

  Fault* fault() override { return nullptr; }
  void* fault_pointer() override { return nullptr; }

 private:
  DeviceProperties properties_;
};

}  // namespace

void set_parallel_for(ParallelFor parallel_for, int threads) {
  chosen_parallel_for = parallel_for ? parallel_for : in_order;
  chosen_threads = parallel_for ? std::max(1, threads) : 1;
  if (DeviceProperties* properties = live_properties) properties->multiprocessors = chosen_threads;
}

std::unique_ptr<Device> make_host_device() { return std::make_unique<HostDevice>(); }

}  // namespace liger
