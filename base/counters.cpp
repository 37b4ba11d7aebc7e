#include "base/counters.h"

namespace liger {

Counters& counters() {
  // Never destroyed: threads may still count while the process ends.
  static Counters& the_counters = *new Counters;
  return the_counters;
}

std::vector<std::pair<std::string, uint64_t>> counter_values() {
  const Counters& now = counters();
  return {
#define LIGER_COUNTER(NAME) {#NAME, now.NAME},
      LIGER_COUNTERS(LIGER_COUNTER)
#undef LIGER_COUNTER
  };
}

}  // namespace liger
