#include "engine/prepare.h"

#include <chrono>
#include <optional>
#include <set>
#include <utility>
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

using Compiling = std::shared_future<std::shared_ptr<const Binary>>;

struct Recorder {
  Target target;
  KnownUnits units;
  std::vector<Unit> other_candidates;
  std::vector<Recorded> calls;
  std::vector<Compiling> compiling;
  bool tunes = true;
};

void begin_compile(Recorder& recorder, Unit unit, Urgency urgency) {
  recorder.compiling.push_back(compile_in_background(std::move(unit), recorder.target, urgency));
}

bool tunes(const Call& call, const Target& target) {
  return environment().autotune != AutotuneMode::off && worth_measuring(call) &&
         may_compile(target);
}

thread_local std::optional<Recorder> open_recorder;
thread_local std::vector<Recorded> last_calls;
thread_local std::vector<Compiling> last_compiling;
thread_local Target last_target;

}  // namespace

void begin_prepare(const Target& target) { open_recorder = Recorder{.target = target}; }

int end_prepare(bool awaited) {
  if (!open_recorder) return 0;
  for (Unit& unit : open_recorder->other_candidates) {
    begin_compile(*open_recorder, std::move(unit), awaited ? Urgency::soon : Urgency::later);
  }
  const int units = static_cast<int>(open_recorder->units.size());
  last_calls = std::move(open_recorder->calls);
  last_compiling = std::move(open_recorder->compiling);
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
      begin_compile(recorder, std::move(planned.unit), Urgency::soon);
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

std::vector<std::string> take_prepared_failures() {
  std::vector<std::string> failures;
  for (const Compiling& compiling : std::exchange(last_compiling, {})) {
    if (compiling.wait_for(std::chrono::seconds(0)) != std::future_status::ready) continue;
    try {
      compiling.get();
    } catch (const std::exception& error) {
      failures.emplace_back(error.what());
    }
  }
  return failures;
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
