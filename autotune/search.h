// Which candidate is fastest, decided so that repeats agree. Pure: it is given a clock and knows no
// device.
#pragma once

#include <functional>
#include <vector>

namespace liger {

struct Timing {
  double best_ms = 0;
  double median_ms = 0;
  double deviation_ms = 0;  // median absolute deviation
  int samples = 0;          // 0: never measured, the candidate is out
  bool measured() const { return samples > 0; }
};

struct SearchLimits {
  double budget_ms = 50;      // of measured time, for one key
  int first_rounds = 3;       // all candidates
  int last_rounds = 10;       // survivors
  double drop_factor = 1.15;  // slower than this times the best: out after the first rounds
};

// Times candidates in turn, A B C A B C, so that a change of the machine's mood meets all alike.
// `time_ms` gives one sample; a negative one takes the candidate out.
std::vector<Timing> search(int candidates, const std::function<double(int)>& time_ms,
                           const SearchLimits& limits = {});

// The lowest index whose median is within max(2 %, twice the deviation) of the best median:
// candidates inside the noise must not be a coin toss. -1 when none was measured.
int choose(const std::vector<Timing>& timings);

}  // namespace liger
