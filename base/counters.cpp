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
      {"hit_group", now.hit_group},
      {"miss_disk", now.miss_disk},
      {"hit_remote", now.hit_remote},
      {"miss_remote", now.miss_remote},
      {"remote_rejected", now.remote_rejected},
      {"remote_errors", now.remote_errors},
      {"remote_skipped", now.remote_skipped},
      {"remote_published", now.remote_published},
      {"corrupt", now.corrupt},
      {"published", now.published},
      {"publish_failed", now.publish_failed},
      {"pruned", now.pruned},
      {"tuned", now.tuned},
      {"tune_hit", now.tune_hit},
      {"pick_group", now.pick_group},
      {"group_trouble", now.group_trouble},
      {"wait_expired", now.wait_expired},
      {"plans", now.plans},
      {"launches", now.launches},
      {"compile_microseconds", now.compile_microseconds},
      {"tune_microseconds", now.tune_microseconds},
      {"load_microseconds", now.load_microseconds},
      {"remote_microseconds", now.remote_microseconds},
  };
}

}  // namespace liger
