#include "autotune/search.h"

#include <algorithm>
#include <cmath>

namespace liger {

namespace {

double median(std::vector<double> values) {
  const size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + middle, values.end());
  return values[middle];
}

Timing summary(const std::vector<double>& samples) {
  Timing timing;
  timing.samples = static_cast<int>(samples.size());
  if (samples.empty()) return timing;
  timing.best_ms = *std::min_element(samples.begin(), samples.end());
  timing.median_ms = median(samples);
  std::vector<double> deviations;
  for (const double sample : samples) deviations.push_back(std::abs(sample - timing.median_ms));
  timing.deviation_ms = median(deviations);
  return timing;
}

}  // namespace

std::vector<Timing> search(int candidates, const std::function<double(int)>& time_ms,
                           const SearchLimits& limits) {
  std::vector<std::vector<double>> samples(candidates);
  std::vector<bool> alive(candidates, true);
  double spent_ms = 0;
  const auto round = [&] {
    for (int candidate = 0; candidate < candidates; ++candidate) {
      if (!alive[candidate]) continue;
      const double sample = time_ms(candidate);
      if (sample < 0) {
        alive[candidate] = false;
        samples[candidate].clear();
        continue;
      }
      samples[candidate].push_back(sample);
      spent_ms += sample;
    }
  };
  for (int i = 0; i < limits.first_rounds && (i == 0 || spent_ms < limits.budget_ms); ++i) round();

  double best = -1;
  for (const auto& of_candidate : samples) {
    if (!of_candidate.empty() && (best < 0 || median(of_candidate) < best))
      best = median(of_candidate);
  }
  for (int candidate = 0; candidate < candidates; ++candidate) {
    if (alive[candidate] && median(samples[candidate]) > best * limits.drop_factor)
      alive[candidate] = false;
  }
  for (int i = 0; i < limits.last_rounds && spent_ms < limits.budget_ms; ++i) round();

  std::vector<Timing> timings;
  for (const auto& of_candidate : samples) timings.push_back(summary(of_candidate));
  return timings;
}

int choose(const std::vector<Timing>& timings) {
  const Timing* best = nullptr;
  for (const Timing& timing : timings) {
    if (timing.measured() && (!best || timing.median_ms < best->median_ms)) best = &timing;
  }
  if (!best) return -1;
  const double band = std::max(0.02 * best->median_ms, 2 * best->deviation_ms);
  for (size_t i = 0; i < timings.size(); ++i) {
    if (timings[i].measured() && timings[i].median_ms <= best->median_ms + band)
      return static_cast<int>(i);
  }
  return -1;
}

}  // namespace liger
