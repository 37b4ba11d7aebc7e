#include "ops/resident_rows.h"

#include <algorithm>
#include <bit>

namespace liger {

namespace {

// As templates/device/resident_row.h and cluster.h have them.
constexpr int64_t pack_size = 8;
constexpr int64_t most_accumulators = 2048;
constexpr int64_t least_accumulators = 128;

constexpr int64_t shortest = 2048;        // a shorter row is read again from the cache
constexpr int64_t most_threads = 1024;    // of a cluster
constexpr int64_t reserved_bytes = 1024;  // of each block, by the system
constexpr int64_t kept_bytes = 128;       // of a thread's registers: more would cost a block

// How a row is dealt out.
struct Deal {
  int64_t threads;
  int64_t cluster;
  int64_t kept;

  int64_t stride() const { return threads * cluster * pack_size; }
};

int64_t accumulators(const ResidentRows& rows) {
  const auto wanted = std::bit_ceil(static_cast<uint64_t>((rows.size + 127) / 128));
  return std::clamp(static_cast<int64_t>(wanted), least_accumulators, most_accumulators);
}

// Of a block, as the vendors document it.
int64_t most_shared_bytes(const Place& place) {
  switch (place.capability) {
    case 80:
    case 87:
      return 163 << 10;
    case 86:
    case 89:
    case 120:
    case 121:
      return 99 << 10;
    case 90:
    case 100:
    case 101:
    case 103:
    case 110:
      return 227 << 10;
    default:
      return 64 << 10;
  }
}

int64_t launch_bytes(const ResidentRows& rows, const Deal& deal) {
  const int64_t most_shift = rows.shifted ? 16 / rows.element_bytes - 1 : 0;
  const int64_t slots = (rows.size + most_shift + deal.stride() - 1) / deal.stride();
  return (slots - deal.kept) * deal.threads * pack_size * rows.element_bytes;
}

int64_t block_bytes(const ResidentRows& rows, const Deal& deal) {
  const int64_t reductions = (pack_size + 1) * (deal.threads + 4) * 4;
  const int64_t exchange = deal.cluster > 1 ? deal.cluster * deal.threads * 4 : 0;
  return launch_bytes(rows, deal) + reductions + exchange + reserved_bytes;
}

// A row of few accumulators has none for a cluster of larger blocks: that is one of no blocks.
bool fits(const ResidentRows& rows, const Deal& deal) {
  return deal.cluster > 0 && deal.threads * deal.cluster <= accumulators(rows) &&
         deal.kept * deal.stride() <= rows.size &&
         2 * block_bytes(rows, deal) <= most_shared_bytes(rows.place) + reserved_bytes;
}

std::vector<Deal> that_fit(const ResidentRows& rows, std::vector<Deal> deals) {
  std::erase_if(deals, [&](const Deal& deal) { return !fits(rows, deal); });
  return deals;
}

std::vector<Deal> deals_of(const ResidentRows& rows) {
  if (rows.size < shortest) return {};
  auto deals = that_fit(rows, {{256, 1, 0}, {512, 1, 0}});
  if (deals.empty()) deals = that_fit(rows, {{128, 1, 0}});
  if (!deals.empty() || rows.place.capability < 90) return deals;
  const int64_t threads = std::min(accumulators(rows), most_threads);
  const bool keeps = rows.may_keep && !rows.shifted && rows.size % pack_size == 0;
  const int64_t kept = keeps ? kept_bytes / (pack_size * rows.element_bytes) : 0;
  deals = that_fit(rows, {{128, threads / 128, kept}, {256, threads / 256, kept}});
  if (kept == 0 && threads > 512) {
    // Two blocks wait the least for each other, where two can hold the row.
    for (const Deal& deal : that_fit(rows, {{256, 2, 0}})) deals.push_back(deal);
  }
  return deals;
}

}  // namespace

std::vector<Knobs> resident_row_candidates(const ResidentRows& rows) {
  std::vector<Knobs> candidates;
  for (const auto& [threads, cluster, kept] : deals_of(rows)) {
    candidates.push_back({{"threads", threads}, {"rows", 1}, {"cluster", cluster}, {"kept", kept}});
  }
  return candidates;
}

int resident_row_shared_bytes(const ResidentRows& rows, const Knobs& knobs) {
  return static_cast<int>(launch_bytes(
      rows,
      {value_of(knobs, "threads", 1), value_of(knobs, "cluster", 1), value_of(knobs, "kept", 0)}));
}

}  // namespace liger
