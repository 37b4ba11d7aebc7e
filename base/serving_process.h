// A program that answers messages, one after another, over a socket that is its standard input and
// output. A message is its length in eight bytes and that many bytes.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/descriptor.h"

namespace liger {

using Deadline = std::chrono::steady_clock::time_point;

// False if the other side is gone or does not read in time.
bool send_message(int socket, std::string_view bytes, Deadline deadline = Deadline::max());

// Nothing if the other side is gone, or says none in time.
std::optional<std::string> receive_message(int socket, Deadline deadline = Deadline::max());

// Used by one thread at a time. The program sees the end of its input when this is destroyed, also
// where a forked child still holds the socket, and is ended a second later if it is still there.
class ServingProcess {
 public:
  // Environment and errors are those of run_process(); what it prints on its standard error is
  // lost.
  ServingProcess(const std::vector<std::string>& arguments,
                 const std::vector<std::string>& environment);
  ~ServingProcess();
  ServingProcess(const ServingProcess&) = delete;

  // As send_message and receive_message. After a failure the process is of no more use.
  bool send(std::string_view bytes, Deadline deadline);
  std::optional<std::string> receive(Deadline deadline);

  pid_t id() const { return id_; }

 private:
  Descriptor socket_;
  pid_t id_ = -1;
};

}  // namespace liger
