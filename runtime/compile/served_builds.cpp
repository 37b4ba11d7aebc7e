#include "runtime/compile/served_builds.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <tuple>

#include "base/process_state.h"
#include "cache/store.h"

namespace liger {
namespace {

struct Found {
  std::mutex mutex;
  std::map<std::string, std::vector<ServedBuild>> by_arch;
};

}  // namespace

std::vector<ServedBuild> builds_among(std::span<const std::string> keys, const Target& target) {
  const std::vector<std::string> levels = levels_run_by(target);
  std::map<std::pair<std::string, std::string>, int> entries;  // by level and compiler
  for (const std::string& key : std::set<std::string>(keys.begin(), keys.end())) {
    std::map<std::string, std::string> fields;
    for (auto& [name, value] : Key::fields_of(key)) fields.emplace(name, std::move(value));
    if (fields["backend"] == name_of(Backend::cpu)) ++entries[{fields["arch"], fields["compiler"]}];
  }
  std::vector<ServedBuild> builds;
  for (const std::string& level : levels) {
    const size_t first = builds.size();
    for (const auto& [build, count] : entries) {
      if (build.first == level) builds.push_back({build.second, {Backend::cpu, level}, count});
    }
    std::stable_sort(builds.begin() + static_cast<std::ptrdiff_t>(first), builds.end(),
                     [](const ServedBuild& one, const ServedBuild& other) {
                       return one.entries > other.entries;
                     });
  }
  return builds;
}

const std::vector<ServedBuild>& served_builds(const Target& target) {
  static const std::vector<ServedBuild> none;
  if (target.backend != Backend::cpu) return none;
  Found& found = ProcessState<Found>::get();
  const std::lock_guard lock(found.mutex);
  const auto known = found.by_arch.find(target.arch);
  if (known != found.by_arch.end()) return known->second;
  std::vector<ServedBuild> builds = builds_among(Store::user().keys(EntryKind::artifact), target);
  return found.by_arch.emplace(target.arch, std::move(builds)).first->second;
}

}  // namespace liger
