#include "autotune/finding.h"

#include "autotune/measure.h"
#include "autotune/picks.h"
#include "base/text.h"

namespace liger {
namespace {

Key key_of(const Tunable& tunable) {
  const DeviceProperties& properties = tunable.device.properties();
  return tune_key(tunable.kernel, tunable.family(), tunable.bucket(), properties,
                  compiler_identity(properties.target));
}

TuneRecord record_in(const Entry& entry) {
  return TuneRecord::decode(entry.payload).value_or(TuneRecord{});
}

}  // namespace

FindingRecipe::FindingRecipe(const Tunable& tunable, const std::vector<std::string>& candidates)
    : Recipe(EntryKind::tune, key_of(tunable), Ranks::agree),
      tunable_(tunable),
      candidates_(candidates) {}

std::optional<Finding> FindingRecipe::accept(const Entry& entry) const {
  TuneRecord record = record_in(entry);
  const int candidate = fastest(candidates_, record);
  if (candidate < 0) return std::nullopt;
  return Finding{candidate, std::move(record)};
}

std::optional<Finding> FindingRecipe::adopt(const Entry& entry) const {
  const auto candidate = index_of(meta_value(entry.meta, "pick"), candidates_);
  if (!candidate) return std::nullopt;
  return Finding{*candidate, record_in(entry)};
}

Finding FindingRecipe::make(const std::optional<Entry>& start) const {
  return measure(tunable_, candidates_, start ? record_in(*start) : TuneRecord{});
}

Entry FindingRecipe::entry_of(const Finding& finding) const {
  const std::string& pick = candidates_[finding.candidate];
  return {{}, fmt::format("kernel={}\npick={}\n", tunable_.kernel, pick), finding.record.encode()};
}

}  // namespace liger
