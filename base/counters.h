// What happened in this process. Tests assert on these; `liger_jit.stats()` shows them.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace liger {

struct Counters {
  std::atomic<uint64_t> compiled{0};        // units given to a compiler
  std::atomic<uint64_t> hit_memory{0};      // plan misses answered by the process's kernel table
  std::atomic<uint64_t> hit_disk{0};        // entries taken from the user's folder
  std::atomic<uint64_t> hit_readonly{0};    // entries taken from a read-only layer
  std::atomic<uint64_t> miss_disk{0};       // keys found in no folder
  std::atomic<uint64_t> corrupt{0};         // entries that failed verification
  std::atomic<uint64_t> published{0};       // entries written
  std::atomic<uint64_t> publish_failed{0};  // entries that could not be written
  std::atomic<uint64_t> pruned{0};          // files removed to keep the folder below its size
  std::atomic<uint64_t> tuned{0};           // tune keys searched
  std::atomic<uint64_t> tune_hit{0};        // tune keys answered by a record
  std::atomic<uint64_t> plans{0};           // calls that met a new shape
  std::atomic<uint64_t> launches{0};        // kernels launched outside tuning
  std::atomic<uint64_t> compile_microseconds{0};
  std::atomic<uint64_t> tune_microseconds{0};
};

Counters& counters();

// Name and value of each counter, in the order above.
std::vector<std::pair<std::string, uint64_t>> counter_values();

}  // namespace liger
