// What happened in this process. Tests assert on these; `liger_jit.stats()` shows them.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace liger {

struct Counters {
  std::atomic<uint64_t> compiled{0};          // units given to a compiler
  std::atomic<uint64_t> hit_memory{0};        // plan misses answered by the process's kernel table
  std::atomic<uint64_t> hit_disk{0};          // entries taken from the user's folder
  std::atomic<uint64_t> hit_readonly{0};      // entries taken from a read-only layer
  std::atomic<uint64_t> miss_disk{0};         // keys found in no folder
  std::atomic<uint64_t> hit_group{0};         // entries taken from another rank
  std::atomic<uint64_t> hit_remote{0};        // entries taken from the server
  std::atomic<uint64_t> miss_remote{0};       // keys that the server did not have
  std::atomic<uint64_t> remote_rejected{0};   // values of the server that failed verification
  std::atomic<uint64_t> remote_errors{0};     // requests that failed: no answer, or a refusal
  std::atomic<uint64_t> remote_skipped{0};    // requests not made, because one had failed before
  std::atomic<uint64_t> remote_published{0};  // entries that the server took
  std::atomic<uint64_t> corrupt{0};           // entries that failed verification
  std::atomic<uint64_t> published{0};         // entries written
  std::atomic<uint64_t> publish_failed{0};    // entries that could not be written
  std::atomic<uint64_t> pruned{0};            // files removed to keep the folder below its size
  std::atomic<uint64_t> tuned{0};             // tune keys searched
  std::atomic<uint64_t> tune_hit{0};          // tune keys answered by a record
  std::atomic<uint64_t> pick_group{0};        // tune keys answered by another rank's pick
  std::atomic<uint64_t> group_trouble{0};     // calls of the process group's store that failed
  std::atomic<uint64_t> wait_expired{0};      // waits for another process that ended in vain
  std::atomic<uint64_t> plans{0};             // calls that met a new shape
  std::atomic<uint64_t> launches{0};          // kernels launched outside tuning
  std::atomic<uint64_t> compile_microseconds{0};
  std::atomic<uint64_t> tune_microseconds{0};    // with the waits for its compiles
  std::atomic<uint64_t> load_microseconds{0};    // bringing kernels onto devices
  std::atomic<uint64_t> remote_microseconds{0};  // waiting for the server's answers
};

Counters& counters();

// Name and value of each counter, in the order above.
std::vector<std::pair<std::string, uint64_t>> counter_values();

}  // namespace liger
