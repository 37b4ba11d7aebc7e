#include "engine/plan_table.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "base/process_state.h"

namespace liger {

namespace {

struct PlanEntry {
  std::vector<uint64_t> key;
  std::shared_ptr<const Plan> plan;
  bool stands() const { return !plan->provisional || background_compiles_pending(); }
  bool is(std::span<const uint64_t> other) const {
    return key.size() == other.size() &&
           std::memcmp(key.data(), other.data(), other.size_bytes()) == 0;
  }
};

constexpr size_t thread_slots = 512;
constexpr size_t most_plans =
    16384;  // of a process; sequence lengths that never repeat must not fill memory

struct ThreadSlot {
  uint64_t hash = 0;
  std::shared_ptr<const PlanEntry> entry;
};
thread_local std::array<ThreadSlot, thread_slots> thread_table;

struct ProcessTable {
  std::mutex mutex;
  std::unordered_multimap<uint64_t, std::shared_ptr<const PlanEntry>> entries;
};
ProcessTable& process_table() { return ProcessState<ProcessTable>::get(); }

std::shared_ptr<const PlanEntry> find_in_process(uint64_t hash, std::span<const uint64_t> key) {
  ProcessTable& table = process_table();
  std::lock_guard lock(table.mutex);
  const auto [begin, end] = table.entries.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    if (!it->second->is(key)) continue;
    if (it->second->stands()) return it->second;
    table.entries.erase(it);
    break;
  }
  return nullptr;
}

constexpr uint64_t undefined_tensor = 0;

}  // namespace

void begin_call(CallKey& call, const Op& op, Place place) {
  call.count = 0;
  call.push(reinterpret_cast<uint64_t>(&op));
  call.push(static_cast<uint64_t>(place.backend) | static_cast<uint64_t>(place.ordinal) << 8 |
            static_cast<uint64_t>(place.capability) << 24 |
            static_cast<uint64_t>(place.multiprocessors) << 40);
}

void push_tensor(CallKey& call, const Tensor& tensor) {
  if (!tensor.defined) {
    call.push(undefined_tensor);
    return;
  }
  call.push(1 | static_cast<uint64_t>(tensor.dtype) << 8 |
            static_cast<uint64_t>(tensor.dims) << 16 |
            static_cast<uint64_t>(tensor.align_bytes) << 24);
  for (int dim = 0; dim < tensor.dims; ++dim) call.push(static_cast<uint64_t>(tensor.sizes[dim]));
  for (int dim = 0; dim < tensor.dims; ++dim) call.push(static_cast<uint64_t>(tensor.strides[dim]));
}

void push_scalar(CallKey& call, Scalar scalar) { call.push(std::bit_cast<uint64_t>(scalar)); }

Call decode(const Op& op, std::span<const uint64_t> key) {
  size_t at = 1;
  const uint64_t where = key[at++];
  Call call(op, {static_cast<Backend>(where & 0xff), static_cast<int>(where >> 8 & 0xffff),
                 static_cast<int>(where >> 40), static_cast<int>(where >> 24 & 0xffff)});
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const uint64_t word = key[at++];
    if (!op.inputs[i].is_tensor()) {
      call.scalar(static_cast<int>(i)) = std::bit_cast<Scalar>(word);
      continue;
    }
    if (word == undefined_tensor) continue;
    Tensor& tensor = call.tensor(static_cast<int>(i));
    tensor.defined = true;
    tensor.dtype = static_cast<Dtype>(word >> 8 & 0xff);
    tensor.dims = static_cast<int>(word >> 16 & 0xff);
    tensor.align_bytes = static_cast<int>(word >> 24 & 0xff);
    for (int dim = 0; dim < tensor.dims; ++dim) tensor.sizes[dim] = static_cast<int64_t>(key[at++]);
    for (int dim = 0; dim < tensor.dims; ++dim)
      tensor.strides[dim] = static_cast<int64_t>(key[at++]);
  }
  return call;
}

const Plan* find_plan(std::span<const uint64_t> key) {
  const uint64_t hash = hash64(key.data(), key.size_bytes());
  const ThreadSlot& slot = thread_table[hash % thread_slots];
  const bool found = slot.hash == hash && slot.entry && slot.entry->is(key) && slot.entry->stands();
  return found ? slot.entry->plan.get() : nullptr;
}

const Plan& plan_for(std::span<const uint64_t> key,
                     const std::function<std::shared_ptr<const Plan>()>& make) {
  const uint64_t hash = hash64(key.data(), key.size_bytes());
  auto entry = find_in_process(hash, key);
  if (!entry) {
    auto made = std::make_shared<PlanEntry>();
    made->key.assign(key.begin(), key.end());
    made->plan = make();
    ProcessTable& table = process_table();
    std::lock_guard lock(table.mutex);
    if (table.entries.size() >= most_plans) table.entries.clear();
    table.entries.emplace(hash, made);
    entry = std::move(made);
  }
  ThreadSlot& slot = thread_table[hash % thread_slots];
  slot = {hash, std::move(entry)};
  return *slot.entry->plan;
}

}  // namespace liger
