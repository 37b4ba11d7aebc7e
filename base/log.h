// One line on stderr for each event of a closed list, off unless LIGER_JIT_LOG=1; warnings always.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace liger {

enum class Event { compile, hit, tune, fallback, corrupt, publish, load, prune };

// `liger_jit compile rms_norm sm_90a 97ms key=3f2a…`. Costs one branch when the log is off.
void log_event(Event event, std::string_view fields);
bool log_enabled();

// Printed once a process for each `topic`, whether or not the log is on. Recent warnings are kept
// (at most 64) so that tests and `liger_jit.stats()` can show them.
void warn_once(std::string_view topic, std::string_view message);
std::vector<std::string> recent_warnings();  // oldest first

}  // namespace liger
