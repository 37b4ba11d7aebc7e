// A search on a device: candidates are compiled, loaded and timed.
#pragma once

#include <string>
#include <vector>

#include "autotune/finding.h"
#include "autotune/tunable.h"

namespace liger {

// What the times of all candidates say: the index of the fastest, or -1 while one has no time or
// none could be measured.
int fastest(const std::vector<std::string>& candidates, const TuneRecord& record);

// Measures what `known` lacks. Waits for compiles. One at a time in a process, for two would time
// each other. Raises Error(compile) when no candidate compiles, Error(device) when the device
// fails.
Finding measure(const Tunable& tunable, const std::vector<std::string>& candidates,
                TuneRecord known);

void prefetch_candidates(const Tunable& tunable, int count, Urgency urgency);

}  // namespace liger
