// What a search found: as an entry of the cache, and as what a rank proposes to all.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "autotune/record.h"
#include "autotune/tunable.h"
#include "runtime/share/obtain_once.h"

namespace liger {

struct Finding {
  int candidate = 0;
  TuneRecord record;
  bool measured = true;  // false: nothing could be, and the candidate is the first that can be used
};

// An entry of the cache suffices when it has the times of all candidates. One of a rank names its
// pick, whatever it has measured. Made by a search, which goes on from the times that are there,
// and raises as measure() does. Used by one thread.
class FindingRecipe final : public Recipe<Finding> {
 public:
  // Both outlive it.
  FindingRecipe(const Tunable& tunable, const std::vector<std::string>& candidates);

  std::optional<Finding> accept(const Entry& entry) const override;
  std::optional<Finding> adopt(const Entry& entry) const override;
  Finding make(const std::optional<Entry>& start) const override;
  Entry entry_of(const Finding& finding) const override;
  bool worth_publishing(const Finding& finding) const override { return finding.measured; }

 private:
  const Tunable& tunable_;
  const std::vector<std::string>& candidates_;
};

}  // namespace liger
