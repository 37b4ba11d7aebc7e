// Keeps the processes of one node from compiling the same key at the same moment. Only an
// optimisation: nothing is wrong when it is missing, when it excludes nobody or when it is never
// given up.
#pragma once

#include <cstdint>
#include <string>

#include "base/hash.h"
#include "runtime/share/wait_budget.h"

namespace liger {

// A POSIX lock on one byte of one small file in memory, for each user. The kernel takes it back
// when its holder dies, a forked child does not inherit it, and asking for it never blocks.
// Each is one thread's, for a scope. It keeps processes apart and not threads, which have it
// together. Raises nothing: where there is no lock to be had, nobody is excluded.
class NodeLock {
 public:
  // Waits while another process has the key's byte, for as long as there is patience.
  NodeLock(const Hash128& key, const std::string& folder);
  ~NodeLock();
  NodeLock(const NodeLock&) = delete;

  // Whether another process had it: what it made may be on disk by now.
  bool waited() const { return waited_; }

  // Whether another process has it at this moment. Takes and waits for nothing.
  static bool busy(const Hash128& key, const std::string& folder);

 private:
  int64_t byte_;
  bool held_ = false;
  bool waited_ = false;
};

// For tests: the file in place of /dev/shm/liger_jit-<user>.lock.
void set_node_lock_file(const std::string& path);

}  // namespace liger
