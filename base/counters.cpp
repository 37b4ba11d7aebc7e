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
      {"compiled", now.compiled},
      {"hit_memory", now.hit_memory},
      {"hit_disk", now.hit_disk},
      {"hit_readonly", now.hit_readonly},
      {"miss_disk", now.miss_disk},
      {"corrupt", now.corrupt},
      {"published", now.published},
      {"publish_failed", now.publish_failed},
      {"pruned", now.pruned},
      {"tuned", now.tuned},
      {"tune_hit", now.tune_hit},
      {"plans", now.plans},
      {"launches", now.launches},
      {"compile_microseconds", now.compile_microseconds},
      {"tune_microseconds", now.tune_microseconds},
  };
}

}  // namespace liger
