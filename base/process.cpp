#include "base/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "base/descriptor.h"
#include "base/error.h"
#include "base/text.h"

namespace liger {

void cannot_start(const std::string& program, int error_number) {
  throw Error(ErrorKind::compile,
              fmt::format("cannot start {}: {}", program, std::strerror(error_number)));
}

namespace {

using Clock = std::chrono::steady_clock;

constexpr int poll_milliseconds = 20;

struct Pipe {
  Descriptor read_end;
  Descriptor write_end;
};

Pipe make_pipe(const std::string& program) {
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC) != 0) cannot_start(program, errno);
  Pipe pipe{above_standard(ends[0]), above_standard(ends[1])};
  if (!pipe.read_end.is_open() || !pipe.write_end.is_open()) cannot_start(program, errno);
  ::fcntl(pipe.read_end.number(), F_SETFL, O_NONBLOCK);
  return pipe;
}

// The input as a file in memory: the child may read it late or never, and nobody gets a SIGPIPE.
Descriptor input_file(const std::string& program, const std::string& input) {
  Descriptor file = above_standard(input.empty() ? ::open("/dev/null", O_RDONLY | O_CLOEXEC)
                                                 : ::memfd_create("stdin", MFD_CLOEXEC));
  if (!file.is_open()) cannot_start(program, errno);
  size_t done = 0;
  while (done < input.size()) {
    const ssize_t written = ::write(file.number(), input.data() + done, input.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) cannot_start(program, errno);
    done += static_cast<size_t>(written);
  }
  if (!input.empty()) ::lseek(file.number(), 0, SEEK_SET);
  return file;
}

std::vector<std::string> whole_environment(std::vector<std::string> lines) {
  lines.emplace_back("LC_ALL=C");
  for (const char* name : {"PATH", "LD_LIBRARY_PATH"}) {
    if (const char* value = std::getenv(name)) lines.push_back(fmt::format("{}={}", name, value));
  }
  return lines;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

pid_t start_process(std::vector<std::string> arguments, const std::vector<std::string>& environment,
                    const int (&standard)[3]) {
  std::vector<std::string> environment_lines = whole_environment(environment);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (int i = 0; i < 3; ++i) posix_spawn_file_actions_adddup2(&actions, standard[i], i);

  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // A group of its own, so that a timeout also ends what the program started. Python ignores
  // SIGPIPE, and its threads may block signals: neither is for the child to inherit.
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t signals;
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  sigaddset(&signals, SIGPIPE);
  sigaddset(&signals, SIGCHLD);
  posix_spawnattr_setsigdefault(&attributes, &signals);

  pid_t child = -1;
  const int trouble =
      posix_spawnp(&child, arguments[0].c_str(), &actions, &attributes,
                   pointers_to(arguments).data(), pointers_to(environment_lines).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (trouble != 0) cannot_start(arguments[0], trouble);
  return child;
}

namespace {

// Takes what is there now; closes the pipe at its end.
void drain(Descriptor& pipe, std::string& text) {
  char buffer[16 * 1024];
  while (pipe.is_open()) {
    const ssize_t got = ::read(pipe.number(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      pipe.reset();
    } else {
      text.append(buffer, static_cast<size_t>(got));
    }
  }
}

// True once the child is gone; its fate is then in `result`.
bool has_ended(pid_t child, int wait_flags, ProcessResult& result) {
  int status = 0;
  pid_t answer = -1;
  do {
    answer = ::waitpid(child, &status, wait_flags);
  } while (answer < 0 && errno == EINTR);
  if (answer == 0) return false;
  if (answer < 0) {
    result.error += "\n(exit status lost: this process ignores SIGCHLD or waits for any child)";
  } else if (WIFEXITED(status)) {
    result.exit_code = WEXITSTATUS(status);
  } else {
    result.signal = WTERMSIG(status);
  }
  return true;
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& arguments, const std::string& input,
                          double timeout_seconds, const std::vector<std::string>& environment) {
  if (arguments.empty()) cannot_start("a program without a name", ENOENT);
  const Clock::time_point deadline =
      Clock::now() +
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout_seconds));
  Descriptor standard_input = input_file(arguments[0], input);
  Pipe output = make_pipe(arguments[0]);
  Pipe error = make_pipe(arguments[0]);
  const pid_t child =
      start_process(arguments, environment,
                    {standard_input.number(), output.write_end.number(), error.write_end.number()});
  output.write_end.reset();
  error.write_end.reset();

  ProcessResult result;
  bool ended = false;
  // The end of the program counts, not that of the pipes: a compiler cache may leave a server
  // behind that keeps them open.
  while (!ended) {
    const bool silent = !output.read_end.is_open() && !error.read_end.is_open();
    pollfd files[2] = {{output.read_end.number(), POLLIN, 0}, {error.read_end.number(), POLLIN, 0}};
    ::poll(files, 2, silent ? 1 : poll_milliseconds);
    drain(output.read_end, result.output);
    drain(error.read_end, result.error);
    ended = has_ended(child, WNOHANG, result);
    if (!ended && Clock::now() >= deadline) {
      ::kill(-child, SIGKILL);
      result.timed_out = true;
      ended = has_ended(child, 0, result);
    }
  }
  drain(output.read_end, result.output);
  drain(error.read_end, result.error);
  return result;
}

std::optional<std::string> find_program(const std::vector<std::string>& names) {
  const auto can_run = [](const std::string& path) {
    struct stat status = {};
    return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
           ::access(path.c_str(), X_OK) == 0;
  };
  const char* search = std::getenv("PATH");
  for (const std::string& name : names) {
    if (name.find('/') != std::string::npos) {
      if (can_run(name)) return name;
      continue;
    }
    std::string_view rest = search == nullptr ? "/usr/local/bin:/usr/bin:/bin" : search;
    while (!name.empty() && !rest.empty()) {
      const size_t colon = std::min(rest.find(':'), rest.size());
      const std::string_view folder = rest.substr(0, colon);
      rest.remove_prefix(std::min(colon + 1, rest.size()));
      // An empty part means the current folder, where anybody may have put a `c++`.
      if (folder.empty()) continue;
      const std::string path = fmt::format("{}/{}", folder, name);
      if (can_run(path)) return path;
    }
  }
  return std::nullopt;
}

}  // namespace liger
