#include "base/log.h"

#include <fcntl.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/environment.h"
#include "base/process_state.h"
#include "base/text.h"

namespace liger {
namespace {

using nlohmann::ordered_json;

constexpr size_t warnings_kept = 64;

const char* name_of(Event event) {
  switch (event) {
    case Event::compile:
      return "compile";
    case Event::hit:
      return "hit";
    case Event::tune:
      return "tune";
    case Event::fallback:
      return "fallback";
    case Event::corrupt:
      return "corrupt";
    case Event::publish:
      return "publish";
    case Event::load:
      return "load";
    case Event::prune:
      return "prune";
  }
  return "event";
}

// One call, so that the lines of several processes do not mix.
void print_line(int file, const std::string& line) {
  const ssize_t written = ::write(file, line.data(), line.size());
  static_cast<void>(written);  // a log that cannot be written stops nothing
}

// The file of LIGER_JIT_LOG, opened once; stderr where there is none or it cannot be written.
int log_file() {
  static const int file = [] {
    const std::string& path = environment().log_file;
    if (path.empty()) return STDERR_FILENO;
    const int opened = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (opened >= 0) return opened;
    print_line(STDERR_FILENO,
               fmt::format("liger_jit warning: LIGER_JIT_LOG={} cannot be written ({}), so the log "
                           "goes to stderr; name a file in a folder that exists\n",
                           path, std::strerror(errno)));
    return STDERR_FILENO;
  }();
  return file;
}

std::string utc_now() {
  timeval now{};
  gettimeofday(&now, nullptr);
  tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:03}Z", text, now.tv_usec / 1000);
}

void print_json(const char* event, std::initializer_list<LogField> fields) {
  static const char* const rank = std::getenv("RANK");  // as torchrun sets it
  ordered_json object = {{"time", utc_now()}, {"pid", getpid()}};
  if (rank != nullptr) object["rank"] = std::atoi(rank);
  object["event"] = event;
  for (const LogField& field : fields) {
    std::visit([&](const auto& value) { object[std::string(field.name)] = value; }, field.value);
  }
  print_line(log_file(),
             object.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n");
}

std::string text_of(const LogField& field) {
  return std::visit([&](const auto& value) { return fmt::format(" {}={}", field.name, value); },
                    field.value);
}

struct Warnings {
  std::mutex mutex;
  std::unordered_set<std::string> topics;
  std::deque<std::string> recent;
};

Warnings& warnings() { return ProcessState<Warnings>::get(); }

}  // namespace

bool log_enabled() {
  static const bool enabled = environment().log != LogFormat::off;
  return enabled;
}

void log_event(Event event, std::initializer_list<LogField> fields) {
  if (!log_enabled()) return;
  if (environment().log == LogFormat::json) return print_json(name_of(event), fields);
  std::string line = fmt::format("liger_jit {}", name_of(event));
  for (const LogField& field : fields) line += text_of(field);
  print_line(STDERR_FILENO, line + "\n");
}

void warn_once(std::string_view topic, std::string_view message) {
  Warnings& all = warnings();
  {
    const std::lock_guard lock(all.mutex);
    if (!all.topics.emplace(topic).second) return;
    all.recent.emplace_back(message);
    if (all.recent.size() > warnings_kept) all.recent.pop_front();
  }
  print_line(STDERR_FILENO, fmt::format("liger_jit warning: {}\n", message));
  // A warning about the environment itself comes before there is one.
  if (environment_is_read() && environment().log == LogFormat::json)
    print_json("warning", {{"message", std::string(message)}});
}

std::vector<std::string> recent_warnings() {
  Warnings& all = warnings();
  const std::lock_guard lock(all.mutex);
  return {all.recent.begin(), all.recent.end()};
}

}  // namespace liger
