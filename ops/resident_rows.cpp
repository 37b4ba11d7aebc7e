#include "ops/resident_rows.h"

#include <algorithm>
#include <bit>

#include "engine/output_layout.h"
#include "ops/row_knobs.h"

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
  return rows.arrays * (slots - deal.kept) * deal.threads * pack_size * rows.element_bytes;
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
  if (rows.place.capability < 90) return deals;
  const bool keeps = rows.may_keep && !rows.shifted && rows.size % pack_size == 0;
  const int64_t kept = keeps ? kept_bytes / (pack_size * rows.element_bytes * rows.arrays) : 0;
  if (!deals.empty()) {
    // All of a short row in registers: then none of it goes through shared memory.
    const Deal whole{deals[0].threads, 1, rows.size / deals[0].stride()};
    if (whole.kept <= kept && whole.kept * whole.stride() == rows.size) deals.push_back(whole);
    return deals;
  }
  const int64_t threads = std::min(accumulators(rows), most_threads);
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

Knobs of_one_block(int64_t threads, int64_t rows) {
  return {{"threads", threads}, {"rows", rows}, {"cluster", 1}, {"kept", 0}};
}

RereadRows::RereadRows(const Call& call, std::vector<std::string_view> read,
                       std::string_view written, bool may_keep)
    : call_(call), rows_(call[read.front()].rows()), align_bytes_(16) {
  const Tensor& first = call[read.front()];
  // Whether each row of all of them is as far from alignment.
  bool alike = true;
  const bool several = read.size() > 1 || !written.empty();
  for (const std::string_view name : read) {
    const Tensor& tensor = call[name];
    align_bytes_ = std::min<int64_t>(align_bytes_, tensor.row_align_bytes());
    alike &= !several || (tensor.align_bytes == 16 && tensor.row_stride() == first.last_size());
  }
  if (!written.empty()) {
    const Tensor output = output_tensor(call, call.op().outputs[call.op().output_index(written)]);
    align_bytes_ = std::min<int64_t>(align_bytes_, output.row_align_bytes());
  }
  // On the host it means nothing, and one unit then serves every alignment.
  if (call.on_host()) align_bytes_ = 2;
  shape_ = {.place = call.place(),
            .size = first.last_size(),
            .element_bytes = size_bytes(first.dtype),
            .shifted = align_bytes_ < 16 && alike,
            .may_keep = may_keep,
            .arrays = static_cast<int64_t>(read.size())};
  resident_ = !call.on_host() && !resident_row_candidates(shape_).empty();
}

std::vector<Knobs> RereadRows::candidates(int64_t fewest_threads) const {
  if (call_.on_host()) return {of_one_block(1, 1), of_one_block(1, 4)};
  if (resident_) return resident_row_candidates(shape_);
  if (shape_.size > 8192) {
    return {of_one_block(512, 1), of_one_block(1024, 1), of_one_block(256, 1)};
  }
  if (fewest_threads < 64 && shape_.size <= 1024) {
    // A thread has a pack, or a few.
    std::vector<Knobs> list;
    for (const int64_t packs_each : {1, 4}) {
      const auto packs = static_cast<uint64_t>(shape_.size + pack_size * packs_each - 1);
      const auto wanted = static_cast<int64_t>(std::bit_ceil(packs / (pack_size * packs_each)));
      const int64_t threads = std::clamp<int64_t>(wanted, fewest_threads, 32);
      for (const int64_t block : {128, 256}) list.push_back(of_one_block(threads, block / threads));
    }
    if (shape_.size > 256) list.push_back(of_one_block(64, 1));
    return list;
  }
  return {of_one_block(128, 1), of_one_block(256, 1), of_one_block(64, 1)};
}

int64_t RereadRows::blocks(const Knobs& knobs) const {
  return row_blocks(rows_, knobs) * value_of(knobs, "cluster", 1);
}

int RereadRows::shared_bytes(const Knobs& knobs) const {
  return resident_ ? resident_row_shared_bytes(shape_, knobs) : 0;
}

KernelOf reread_kernel(KernelOf kernel, std::vector<std::string_view> read,
                       std::string_view written, int64_t fewest_threads, bool may_keep) {
  const auto rows = [read = std::move(read), written, may_keep](const Call& call) {
    return RereadRows(call, read, written, may_keep);
  };
  kernel.candidates = [rows, fewest_threads](const Call& call) {
    return rows(call).candidates(fewest_threads);
  };
  kernel.blocks = [rows](const Call& call, const Knobs& knobs) { return rows(call).blocks(knobs); };
  kernel.shared_bytes = [rows](const Call& call, const Knobs& knobs) {
    return rows(call).shared_bytes(knobs);
  };
  return kernel;
}

}  // namespace liger
