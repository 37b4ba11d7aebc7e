#include "autotune/choice.h"

#include <mutex>
#include <utility>

#include "autotune/finding.h"
#include "autotune/measure.h"
#include "autotune/picks.h"
#include "base/counters.h"
#include "base/environment.h"
#include "base/memo.h"
#include "base/process_state.h"

namespace liger {
namespace {

// What was chosen: a call that differs from another in its number of rows alone needs neither a
// tune key nor a record.
struct Choices : Memo<Choice> {
  Choices() : Memo(4096) {}
};

struct Measuring {
  std::mutex mutex;
};
std::mutex& measuring() {  // one search at a time: two would time each other
  return ProcessState<Measuring>::get().mutex;
}

Choice chosen_anew(const Tunable& tunable, bool may_measure) {
  const std::vector<std::string> candidates = tunable.candidates();
  const Target& target = tunable.device.properties().target;
  const FindingRecipe recipe(tunable, candidates);
  if (const auto pick = pick_made(recipe.key, candidates)) return {*pick};

  const auto picked = [&](const Obtained<Finding>& finding) -> Choice {
    counters().tune_hit += finding.origin == Origin::cache;
    return {make_pick(recipe.key, tunable.kernel, finding.value.candidate, candidates)};
  };
  Obtaining<Finding> obtaining(recipe);
  if (const auto found = obtaining.look()) return picked(*found);
  // A search would want every candidate, and there is nothing to compile them with.
  if (!may_compile(target)) return {};
  if (!may_measure) return {.provisional = true};
  if (background_compiles_pending() && target.backend != Backend::cpu) {
    prefetch_candidates(tunable, static_cast<int>(candidates.size()), Urgency::later);
    return {.provisional = true};
  }
  const std::lock_guard one_search(measuring());
  // Another thread may have searched while this one waited.
  if (const auto pick = pick_made(recipe.key, candidates)) return {*pick};
  return picked(obtaining.make());
}

}  // namespace

Choice choose_candidate(const Tunable& tunable, bool may_measure) {
  if (environment().autotune == AutotuneMode::off) return {};
  Choices& known = ProcessState<Choices>::get();
  std::string identity = tunable.identity();
  if (const auto choice = known.find(identity)) {
    // The first candidate stands in until its rivals, which somebody asked for, are compiled.
    if (!choice->provisional || (may_measure && background_compiles_pending())) return *choice;
  }
  const Choice choice = chosen_anew(tunable, may_measure);
  if (!choice.provisional || may_measure) known.put(std::move(identity), choice);
  return choice;
}

}  // namespace liger
