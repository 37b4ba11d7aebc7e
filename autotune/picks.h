// What this process uses, by tune key: the first pick for a key stands for the life of the process.
// Thread safe; a forked child starts with none.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cache/key.h"

namespace liger {

struct Pick {
  std::string kernel;
  std::string key;        // the hash of its tune key
  std::string candidate;  // `threads=128,rows=2`
};

// In the order of kernel and key.
std::vector<Pick> picks_made();

// The index of that name; nothing if there is none.
std::optional<int> index_of(std::string_view name, const std::vector<std::string>& candidates);

// Nothing while there is no pick, or if it is none of these candidates.
std::optional<int> pick_made(const Key& key, const std::vector<std::string>& candidates);

// The one that stands: this one unless there was one before which is among the candidates.
int make_pick(const Key& key, std::string_view kernel, int own,
              const std::vector<std::string>& candidates);

}  // namespace liger
