#include "base/log.h"

#include <cstdio>
#include <deque>
#include <mutex>
#include <unordered_set>

#include "base/environment.h"
#include "base/text.h"

namespace liger {
namespace {

constexpr size_t kWarningsKept = 64;

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

// One call, so that the lines of several ranks do not mix.
void print_line(const std::string& line) { std::fwrite(line.data(), 1, line.size(), stderr); }

struct Warnings {
  std::mutex mutex;
  std::unordered_set<std::string> topics;
  std::deque<std::string> recent;
};

Warnings& warnings() {
  // Never destroyed: threads may still warn while the process ends.
  static Warnings& the_warnings = *new Warnings;
  return the_warnings;
}

}  // namespace

bool log_enabled() {
  static const bool enabled = environment().log;
  return enabled;
}

void log_event(Event event, std::string_view fields) {
  if (!log_enabled()) return;
  print_line(fmt::format("liger_jit {} {}\n", name_of(event), fields));
}

void warn_once(std::string_view topic, std::string_view message) {
  Warnings& all = warnings();
  {
    const std::lock_guard lock(all.mutex);
    if (!all.topics.emplace(topic).second) return;
    all.recent.emplace_back(message);
    if (all.recent.size() > kWarningsKept) all.recent.pop_front();
  }
  print_line(fmt::format("liger_jit warning: {}\n", message));
}

std::vector<std::string> recent_warnings() {
  Warnings& all = warnings();
  const std::lock_guard lock(all.mutex);
  return {all.recent.begin(), all.recent.end()};
}

}  // namespace liger
