#include "base/serving_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <thread>

#include "base/process.h"

namespace liger {
namespace {

using Clock = std::chrono::steady_clock;

// Larger ones come from nobody who speaks as we do.
constexpr uint64_t most_message_bytes = uint64_t{1} << 30;
constexpr auto longest_poll = std::chrono::hours(1);

// Whether it may be read from or written to before the deadline.
bool wait_for(int socket, short events, Deadline deadline) {
  while (true) {
    const Clock::time_point now = Clock::now();
    if (now >= deadline) return false;
    const auto left = std::min<Clock::duration>(deadline - now, longest_poll);
    pollfd file = {socket, events, 0};
    const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    const int ready = ::poll(&file, 1, static_cast<int>(milliseconds));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

// `transfer` moves some bytes from `offset` on, as send and recv do.
template <class Transfer>
bool transfer_all(int socket, short events, size_t size_bytes, Deadline deadline,
                  Transfer transfer) {
  size_t done = 0;
  while (done < size_bytes) {
    if (!wait_for(socket, events, deadline)) return false;
    const ssize_t moved = transfer(done);
    if (moved < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (moved <= 0) return false;
    done += static_cast<size_t>(moved);
  }
  return true;
}

bool send_all(int socket, const char* bytes, size_t size_bytes, Deadline deadline) {
  return transfer_all(socket, POLLOUT, size_bytes, deadline, [&](size_t done) {
    return ::send(socket, bytes + done, size_bytes - done, MSG_NOSIGNAL | MSG_DONTWAIT);
  });
}

bool receive_all(int socket, char* bytes, size_t size_bytes, Deadline deadline) {
  return transfer_all(socket, POLLIN, size_bytes, deadline, [&](size_t done) {
    return ::recv(socket, bytes + done, size_bytes - done, MSG_DONTWAIT);
  });
}

}  // namespace

bool send_message(int socket, std::string_view bytes, Deadline deadline) {
  const uint64_t size_bytes = bytes.size();
  return send_all(socket, reinterpret_cast<const char*>(&size_bytes), sizeof size_bytes,
                  deadline) &&
         send_all(socket, bytes.data(), bytes.size(), deadline);
}

std::optional<std::string> receive_message(int socket, Deadline deadline) {
  uint64_t size_bytes = 0;
  if (!receive_all(socket, reinterpret_cast<char*>(&size_bytes), sizeof size_bytes, deadline))
    return std::nullopt;
  if (size_bytes > most_message_bytes) return std::nullopt;
  std::string bytes(size_bytes, '\0');
  if (!receive_all(socket, bytes.data(), bytes.size(), deadline)) return std::nullopt;
  return bytes;
}

ServingProcess::ServingProcess(const std::vector<std::string>& arguments,
                               const std::vector<std::string>& environment) {
  const std::string& program = arguments.at(0);
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) cannot_start(program, errno);
  socket_ = above_standard(ends[0]);
  const Descriptor theirs = above_standard(ends[1]);
  const Descriptor nowhere = above_standard(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  if (!socket_.is_open() || !theirs.is_open() || !nowhere.is_open()) cannot_start(program, errno);
  id_ = start_process(arguments, environment, {theirs.number(), theirs.number(), nowhere.number()});
}

ServingProcess::~ServingProcess() {
  ::shutdown(socket_.number(), SHUT_RDWR);
  const Deadline deadline = Clock::now() + std::chrono::seconds(1);
  while (true) {
    const pid_t answer = ::waitpid(id_, nullptr, WNOHANG);
    // Nobody to wait for: this process ignores SIGCHLD, or waits for any child elsewhere.
    if (answer == id_ || (answer < 0 && errno != EINTR)) return;
    if (Clock::now() >= deadline) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ::kill(-id_, SIGKILL);
  while (::waitpid(id_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool ServingProcess::send(std::string_view bytes, Deadline deadline) {
  return send_message(socket_.number(), bytes, deadline);
}

std::optional<std::string> ServingProcess::receive(Deadline deadline) {
  return receive_message(socket_.number(), deadline);
}

}  // namespace liger
