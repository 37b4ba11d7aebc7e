// On a machine without a C++ compiler: the builds whose kernels are in the cache's folders and
// bundles. An artifact key names the compiler's build, so a machine that has none takes the name
// from the entries.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/compile/target.h"

namespace liger {

struct ServedBuild {
  std::string compiler;  // Compiler::identity() where the entries were made
  Target target;         // whose code the asking one runs: its own level or a lower one
  int entries = 0;
};

// Of the host's kernels that `keys` name. The same keys give the same list: the highest level
// first, then what has the most entries, then by name.
std::vector<ServedBuild> builds_among(std::span<const std::string> keys, const Target& target);

// Those of this process's cache, which is read whole the first time. Empty for a GPU, whose
// compiler comes with torch or with its driver. Thread safe.
const std::vector<ServedBuild>& served_builds(const Target& target);

}  // namespace liger
