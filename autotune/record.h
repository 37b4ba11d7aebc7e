// What is kept of a search: the time of each candidate, so that a new candidate measures only
// itself and an interrupted search goes on.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autotune/search.h"
#include "cache/key.h"
#include "runtime/device/device.h"

namespace liger {

// Candidates by their text, for example `threads=128,rows=2`.
struct TuneRecord {
  std::vector<std::pair<std::string, Timing>> timings;

  std::string encode() const;
  static std::optional<TuneRecord> decode(std::string_view text);  // empty for malformed text

  const Timing* find(std::string_view candidate) const;
  void put(const std::string& candidate, const Timing& timing);
};

// Template family, compiler and silicon, not the name of a product: two cards that differ only in
// name share a record, two that share an architecture but not their memory do not. `family`: what
// is compiled but for the knobs; `bucket`: the binary order of magnitude of the work.
Key tune_key(std::string_view kernel, std::string_view family, int bucket,
             const DeviceProperties& device, std::string_view compiler_identity);

}  // namespace liger
