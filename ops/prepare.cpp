#include "ops/prepare.h"

#include <optional>
#include <set>
#include <unordered_set>
#include <vector>

#include "base/counters.h"
#include "base/environment.h"
#include "base/hash.h"
#include "cache/entry.h"
#include "ops/plan.h"
#include "ops/plan_table.h"
#include "ops/tuning.h"

namespace liger {

namespace {

struct Recorder {
  Target target;
  std::unordered_set<Hash128, Hash128Hasher> units;
  std::vector<Call> calls;
};

bool tunes(const Call& call) {
  return environment().autotune != AutotuneMode::off &&
         environment().cache_mode != CacheMode::offline && worth_measuring(call);
}

thread_local std::optional<Recorder> open_recorder;
thread_local std::vector<Call> last_calls;
thread_local Target last_target;

}  // namespace

void begin_prepare(const Target& target) { open_recorder = Recorder{target, {}, {}}; }

int end_prepare() {
  if (!open_recorder) return 0;
  const int units = static_cast<int>(open_recorder->units.size());
  last_calls = std::move(open_recorder->calls);
  last_target = open_recorder->target;
  open_recorder.reset();
  return units;
}

bool preparing() { return open_recorder.has_value(); }

const Target& prepare_target() { return open_recorder->target; }

void prepare(const Call& call) {
  Recorder& recorder = *open_recorder;
  bool is_new = false;
  for (PlannedUnit& planned : units_of(call, tunes(call))) {
    if (!recorder.units.insert(hash128(planned.unit.expanded)).second) continue;
    is_new = true;
    prefetch(std::move(planned.unit), recorder.target,
             planned.first ? Urgency::soon : Urgency::later);
  }
  if (is_new) recorder.calls.push_back(call);
}

std::vector<std::string> prepared_names() {
  std::set<std::string> names;
  for (const Call& call : last_calls) {
    for (const PlannedUnit& planned : units_of(call, tunes(call))) {
      names.insert(entry_name(Shelf::artifact, artifact_key(planned.unit, last_target).hash()));
    }
    for (const KernelOf& kernel : call.op().kernels) {
      if (kernel.when && !kernel.when(call)) continue;
      if (tunes(call)) names.insert(family_of(kernel, call));
    }
  }
  return {names.begin(), names.end()};
}

int tune_prepared(Backend backend, int ordinal) {
  Device& on = device(backend, ordinal);
  const uint64_t before = counters().tuned;
  for (const Call& prepared : last_calls) {
    Call call(prepared.op(),
              place_on(on.properties().target, ordinal, on.properties().multiprocessors));
    for (size_t i = 0; i < prepared.op().inputs.size(); ++i) {
      call.tensor(static_cast<int>(i)) = prepared.tensor(static_cast<int>(i));
      call.scalar(static_cast<int>(i)) = prepared.scalar(static_cast<int>(i));
    }
    make_plan(call, on, nullptr);
  }
  return static_cast<int>(counters().tuned - before);
}

}  // namespace liger
