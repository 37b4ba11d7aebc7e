#include "engine/prepare.h"

#include <optional>
#include <set>
#include <vector>

#include "base/counters.h"
#include "base/environment.h"
#include "cache/entry.h"
#include "engine/plan.h"
#include "engine/plan_table.h"
#include "engine/tuning.h"

namespace liger {

namespace {

struct Recorded {
  Call call;
  bool tuned;
};

struct Recorder {
  Target target;
  KnownUnits units;
  std::vector<Unit> other_candidates;
  std::vector<Recorded> calls;
  bool tunes = true;
};

bool tunes(const Call& call, const Target& target) {
  return environment().autotune != AutotuneMode::off && worth_measuring(call) &&
         may_compile(target);
}

thread_local std::optional<Recorder> open_recorder;
thread_local std::vector<Recorded> last_calls;
thread_local Target last_target;

}  // namespace

void begin_prepare(const Target& target) { open_recorder = Recorder{.target = target}; }

int end_prepare(bool awaited) {
  if (!open_recorder) return 0;
  for (Unit& unit : open_recorder->other_candidates) {
    compile_in_background(std::move(unit), open_recorder->target,
                          awaited ? Urgency::soon : Urgency::later);
  }
  const int units = static_cast<int>(open_recorder->units.size());
  last_calls = std::move(open_recorder->calls);
  last_target = open_recorder->target;
  open_recorder.reset();
  return units;
}

bool preparing() { return open_recorder.has_value(); }

const Target& prepare_target() { return open_recorder->target; }

void tune_what_is_prepared(bool tunes) {
  if (open_recorder) open_recorder->tunes = tunes;
}

void prepare(const Call& call, bool spare) {
  Recorder& recorder = *open_recorder;
  const bool tuned = recorder.tunes && !spare && tunes(call, recorder.target);
  bool is_new = false;
  for (PlannedUnit& planned : units_of(call, tuned, &recorder.units)) {
    is_new = true;
    if (planned.first && !spare) {
      compile_in_background(std::move(planned.unit), recorder.target, Urgency::soon);
    } else {
      recorder.other_candidates.push_back(std::move(planned.unit));
    }
  }
  if (is_new) recorder.calls.push_back({call, tuned});
}

std::vector<std::string> prepared_names() {
  std::set<std::string> names;
  for (const auto& [call, tuned] : last_calls) {
    for (const PlannedUnit& planned : units_of(call, tuned)) {
      names.insert(entry_name(EntryKind::artifact, artifact_key(planned.unit, last_target).hash()));
    }
    for (const KernelOf& kernel : call.op().kernels) {
      if (kernel.when && !kernel.when(call)) continue;
      if (tuned) names.insert(family_of(kernel, call));
    }
  }
  return {names.begin(), names.end()};
}

int tune_prepared(Backend backend, int ordinal) {
  Device& on = device(backend, ordinal);
  const uint64_t before = counters().tuned;
  for (const auto& [prepared, tuned] : last_calls) {
    if (!tuned) continue;
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
