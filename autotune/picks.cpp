#include "autotune/picks.h"

#include <algorithm>
#include <mutex>
#include <tuple>
#include <unordered_map>

#include "base/process_state.h"

namespace liger {
namespace {

struct Picks {
  std::mutex mutex;
  std::unordered_map<Hash128, Pick, Hash128Hasher> by_key;
};
Picks& picks() { return ProcessState<Picks>::get(); }

}  // namespace

std::vector<Pick> picks_made() {
  const std::lock_guard lock(picks().mutex);
  std::vector<Pick> made;
  for (const auto& [hash, pick] : picks().by_key) made.push_back(pick);
  std::sort(made.begin(), made.end(), [](const Pick& one, const Pick& other) {
    return std::tie(one.kernel, one.key) < std::tie(other.kernel, other.key);
  });
  return made;
}

std::optional<int> index_of(std::string_view name, const std::vector<std::string>& candidates) {
  const auto found = std::ranges::find(candidates, name);
  if (found == candidates.end()) return std::nullopt;
  return static_cast<int>(found - candidates.begin());
}

std::optional<int> pick_made(const Key& key, const std::vector<std::string>& candidates) {
  const std::lock_guard lock(picks().mutex);
  const auto found = picks().by_key.find(key.hash());
  if (found == picks().by_key.end()) return std::nullopt;
  return index_of(found->second.candidate, candidates);
}

int make_pick(const Key& key, std::string_view kernel, int own,
              const std::vector<std::string>& candidates) {
  const std::lock_guard lock(picks().mutex);
  const Pick pick{std::string(kernel), key.hash().hex(), candidates[own]};
  const Pick& standing = picks().by_key.emplace(key.hash(), pick).first->second;
  return index_of(standing.candidate, candidates).value_or(own);
}

}  // namespace liger
