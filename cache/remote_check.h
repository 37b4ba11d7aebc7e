// Whether the server of LIGER_JIT_REMOTE does what this process would ask of it. For `doctor`.
#pragma once

#include <chrono>
#include <string>

#include "base/remote_address.h"

namespace liger {

struct RemoteCheck {
  std::string problem;  // empty, or what failed and the server's words; holds no password
  bool reads = false;   // it was reached, let us in and answered a read
  double read_ms = 0;   // of that read alone
};

// Connects, logs in and reads a value that is not there; if `writes`, writes one that the server
// drops within a minute, and removes it. Takes at most `longest`, and the look-up of the host's
// name.
RemoteCheck check_remote(const RemoteAddress& address, bool writes,
                         std::chrono::milliseconds longest);

}  // namespace liger
