// One line for each event of a closed list, off unless LIGER_JIT_LOG asks for it; warnings always.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace liger {

enum class Event { compile, hit, tune, fallback, corrupt, publish, load, prune };

struct LogField {
  std::string_view name;
  std::variant<std::string, double> value;
};

// As text: `liger_jit compile kernel=RmsNormForward arch=sm_90a ms=97.2 key=3f2a…`. As JSON: an
// object with `time` (UTC), `pid`, `rank` if the launcher set RANK, `event` and the fields. A line
// is one write, so those of several processes do not mix. Costs one branch when the log is off.
void log_event(Event event, std::initializer_list<LogField> fields);
bool log_enabled();

// Printed on stderr once a process for each `topic`, whether or not the log is on; a JSON log gets
// it as the event `warning`. Recent warnings are kept (at most 64) so that tests and
// `liger_jit.stats()` can show them.
void warn_once(std::string_view topic, std::string_view message);
std::vector<std::string> recent_warnings();  // oldest first

}  // namespace liger
