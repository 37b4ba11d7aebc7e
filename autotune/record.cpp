#include "autotune/record.h"

#include <charconv>
#include <cmath>

#include "base/text.h"

namespace liger {
namespace {

// A space and a number off the front of the line. Not scanf, which would want a comma for the point
// in a process that speaks German.
template <typename Number>
bool take_number(std::string_view& line, Number& number) {
  if (!line.starts_with(' ')) return false;
  const char* const end = line.data() + line.size();
  const auto [rest, trouble] = std::from_chars(line.data() + 1, end, number);
  line.remove_prefix(static_cast<size_t>(rest - line.data()));
  return trouble == std::errc() && std::isfinite(static_cast<double>(number));
}

}  // namespace

std::string TuneRecord::encode() const {
  std::string text;
  for (const auto& [candidate, timing] : timings) {
    text += fmt::format("{} {:.6g} {:.6g} {:.6g} {}\n", candidate, timing.best_ms, timing.median_ms,
                        timing.deviation_ms, timing.samples);
  }
  return text;
}

std::optional<TuneRecord> TuneRecord::decode(std::string_view text) {
  TuneRecord record;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) return std::nullopt;
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 1);
    const std::string_view candidate = line.substr(0, line.find(' '));
    line.remove_prefix(candidate.size());
    Timing timing;
    if (candidate.empty() || !take_number(line, timing.best_ms) ||
        !take_number(line, timing.median_ms) || !take_number(line, timing.deviation_ms) ||
        !take_number(line, timing.samples) || !line.empty()) {
      return std::nullopt;
    }
    record.timings.emplace_back(candidate, timing);
  }
  return record;
}

const Timing* TuneRecord::find(std::string_view candidate) const {
  for (const auto& [name, timing] : timings) {
    if (name == candidate) return &timing;
  }
  return nullptr;
}

void TuneRecord::put(const std::string& candidate, const Timing& timing) {
  for (auto& [name, old] : timings) {
    if (name == candidate) {
      old = timing;
      return;
    }
  }
  timings.emplace_back(candidate, timing);
}

Key tune_key(std::string_view kernel, std::string_view family, int bucket,
             const DeviceProperties& device, std::string_view compiler_identity) {
  Key key;
  key.add("schema", "1")
      .add("kernel", kernel)
      .add("family", family)
      .add("bucket", fmt::format("{}", bucket))
      .add("compiler", compiler_identity)
      .add("backend", name_of(device.target.backend))
      .add("arch", device.target.arch)
      .add("multiprocessors", fmt::format("{}", device.multiprocessors))
      .add("l2_bytes", fmt::format("{}", device.l2_bytes))
      .add("shared_bytes", fmt::format("{}", device.shared_bytes_per_block))
      .add("bandwidth_class", fmt::format("{}", device.bandwidth_class));
  return key;
}

}  // namespace liger
