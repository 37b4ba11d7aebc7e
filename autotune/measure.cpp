#include "autotune/measure.h"

#include <algorithm>
#include <chrono>

#include "base/counters.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/log.h"
#include "base/profile_range.h"

namespace liger {
namespace {

using Clock = std::chrono::steady_clock;
using Loaded = std::vector<const Kernel*>;  // by candidate; null: out of the race

// Raises Error(compile) when no candidate compiles.
Loaded load(const Tunable& tunable, int count) {
  Loaded loaded(count);
  std::string last_error;
  bool any = false;
  for (int candidate = 0; candidate < count; ++candidate) {
    try {
      const Kernel* const kernel = liger::kernel(tunable.unit(candidate), tunable.device);
      any = true;
      // A spill costs memory traffic that no size of block wins back.
      if (kernel && kernel->resources.spill_bytes <= 0) loaded[candidate] = kernel;
    } catch (const Error& error) {
      last_error = error.what();
    }
  }
  if (!any) throw Error(ErrorKind::compile, last_error);
  return loaded;
}

std::vector<Timing> timings_of(const Tunable& tunable, Trial& trial,
                               const std::vector<int>& candidates) {
  Device& device = tunable.device;
  const Stream stream = tunable.stream;
  trial.launch(candidates.front());  // warms the clock
  const double single_ms = device.time_ms(stream, [&] { trial.launch(candidates.front()); });
  const int repeats = std::clamp(static_cast<int>(0.1 / std::max(single_ms, 1e-4)), 1, 20);
  const auto time_ms = [&](int i) {
    return device.time_ms(stream, [&] {
      for (int repeat = 0; repeat < repeats; ++repeat) trial.launch(candidates[i]);
    }) / repeats;
  };
  const double budget_ms = environment().autotune == AutotuneMode::full ? 500.0 : 50.0;
  return search(static_cast<int>(candidates.size()), time_ms, {.budget_ms = budget_ms / repeats});
}

// Fills in the times that the record lacks. False when nothing could be measured.
bool complete(TuneRecord& record, const Tunable& tunable,
              const std::vector<std::string>& candidates, Loaded loaded) {
  std::vector<int> missing;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (record.find(candidates[i])) loaded[i] = nullptr;
    if (loaded[i]) missing.push_back(static_cast<int>(i));
  }
  if (missing.empty()) return true;
  const std::unique_ptr<Trial> trial = tunable.trial(loaded);
  if (!trial) return false;
  const std::vector<Timing> timings = timings_of(tunable, *trial, missing);
  for (size_t i = 0; i < missing.size(); ++i) record.put(candidates[missing[i]], timings[i]);
  return true;
}

void report(const Tunable& tunable, const std::string& pick, Clock::duration spent) {
  counters().tuned++;
  counters().tune_microseconds +=
      std::chrono::duration_cast<std::chrono::microseconds>(spent).count();
  log_event(Event::tune, {{"op", std::string(tunable.op)},
                          {"kernel", std::string(tunable.kernel)},
                          {"arch", tunable.device.properties().target.arch},
                          {"pick", pick},
                          {"ms", std::chrono::duration<double, std::milli>(spent).count()}});
}

}  // namespace

int fastest(const std::vector<std::string>& candidates, const TuneRecord& record) {
  std::vector<Timing> timings;
  for (const std::string& candidate : candidates) {
    const Timing* const timing = record.find(candidate);
    if (!timing) return -1;
    timings.push_back(*timing);
  }
  return choose(timings);
}

void prefetch_candidates(const Tunable& tunable, int count, Urgency urgency) {
  const Target& target = tunable.device.properties().target;
  for (int candidate = 0; candidate < count; ++candidate)
    compile_in_background(tunable.unit(candidate), target, urgency);
}

Finding measure(const Tunable& tunable, const std::vector<std::string>& candidates,
                TuneRecord known) {
  const ProfileRange range("tune", tunable.kernel);
  const auto begin = Clock::now();
  const int count = static_cast<int>(candidates.size());
  prefetch_candidates(tunable, count, Urgency::awaited);
  const Loaded loaded = load(tunable, count);
  Finding finding{0, std::move(known), false};
  for (int i = 0; i < count; ++i) {
    if (!loaded[i]) finding.record.put(candidates[i], Timing{});
  }
  const auto first = std::ranges::find_if(loaded, [](const Kernel* kernel) { return kernel; });
  if (first == loaded.end()) return finding;
  finding.measured = complete(finding.record, tunable, candidates, loaded);
  const int best = finding.measured ? fastest(candidates, finding.record) : -1;
  finding.candidate = best >= 0 ? best : static_cast<int>(first - loaded.begin());
  report(tunable, candidates[finding.candidate], Clock::now() - begin);
  return finding;
}

}  // namespace liger
