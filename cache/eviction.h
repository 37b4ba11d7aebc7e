// Keeps a cache folder below a size: the longest unused go first. Safe beside readers and writers,
// because nothing here holds a lock that they would want and an unlinked file stays readable for
// who has it open.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/files.h"

namespace liger {

// A read sets the time of a file anew when it is older than this, so that times tell days of use
// and a file server sees at most one such write a day for an entry.
inline constexpr int64_t day_seconds = 24 * 3600;

struct Pruned {
  bool elected = true;  // false: another process is at it, and nothing was done
  std::string problem;  // not empty: the folder cannot be written, and nothing was done
  uint64_t removed_files = 0;
  uint64_t removed_bytes = 0;
  uint64_t kept_bytes = 0;
};

struct Evictable {
  std::string path;
  FileStamp stamp;
  bool quarantined = false;
};
std::vector<Evictable> evictables_of(const std::string& root);

// The longest unused of these, until what is left has at most that size. An entry that was used or
// replaced since it was listed stays.
void remove_longest_unused(std::vector<Evictable> files, uint64_t most_bytes, Pruned& result);

// `root`: the folder of one schema (`<cache>/v1`). What is in quarantine goes first, then the
// entries by the day of their last use. Temporaries are left alone.
Pruned prune_folder(const std::string& root, uint64_t most_bytes);

// The same, and dead writers' temporaries swept, unless somebody did it within a day. Clocks: this
// machine's decides whether to ask, the file server's decides.
void prune_if_due(const std::string& root, uint64_t most_bytes);

// Temporaries older than an hour by the file server's clock: their writers were killed.
uint64_t sweep_temporaries(const std::string& root);

}  // namespace liger
