// What a warm process pays: a call that hits its plan, an entry that is read and verified, the same
// with its library loaded, and all kernels of a model.
//
//   build/native/cache_costs FOLDER       FOLDER: a cache that bench/cache_costs.py has warmed; a
//                                         bundle of it, costs.ljb, is left there
//
// Prints one line of JSON; nanoseconds and microseconds are medians of repeats.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <vector>

#include "base/hash.h"
#include "base/text.h"
#include "cache/bundle.h"
#include "cache/store.h"
#include "engine/plan_table.h"
#include "engine/registry.h"
#include "runtime/device/device.h"

namespace {

using namespace liger;
using Clock = std::chrono::steady_clock;

double nanoseconds(const std::function<void()>& work) {
  const Clock::time_point start = Clock::now();
  work();
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

Tensor dense(std::initializer_list<int64_t> sizes) {
  Tensor tensor;
  tensor.defined = true;
  for (const int64_t size : sizes) tensor.sizes[tensor.dims++] = size;
  int64_t stride = 1;
  for (int dim = tensor.dims - 1; dim >= 0; --dim) {
    tensor.strides[dim] = stride;
    stride *= tensor.sizes[dim];
  }
  return tensor;
}

// The words of a call of two tensors and three scalars, and the plan they stand for.
double dispatch_hit_ns() {
  const Op& op = op_named("rms_norm");
  const Tensor x = dense({4, 128, 576});
  const Tensor weight = dense({576});
  const Place place;
  const auto look_up = [&](auto&& find) {
    CallKey call;
    begin_call(call, op, place);
    push_tensor(call, x);
    push_tensor(call, weight);
    for (int i = 0; i < 3; ++i) push_scalar(call, Scalar{.integer = i});
    return find(call.span());
  };
  const auto plan = std::make_shared<const Plan>();
  look_up([&](std::span<const uint64_t> words) { return &plan_for(words, [&] { return plan; }); });
  std::vector<double> samples;
  for (int repeat = 0; repeat < 200; ++repeat) {
    constexpr int calls = 1000;
    samples.push_back(nanoseconds([&] {
                        for (int i = 0; i < calls; ++i) {
                          const Plan* found = look_up(find_plan);
                          if (found != plan.get()) std::abort();
                        }
                      }) /
                      calls);
  }
  return median(samples);
}

// Under which the library of an entry has its kernel.
std::string symbol_of(const Entry& entry) { return std::string(meta_value(entry.meta, "symbol")); }

struct Costs {
  double read_ns = 0;
  double bundle_read_ns = 0;
  double load_ns = 0;  // in addition
};

// Median of 50, and what was read.
double warm_read_ns(Store& store, const Key& key, std::optional<Entry>& entry) {
  std::vector<double> reads;
  for (int repeat = 0; repeat < 50; ++repeat) {
    reads.push_back(nanoseconds([&] { entry = store.read(EntryKind::artifact, key); }));
    if (!entry) std::abort();
  }
  return median(reads);
}

Costs warm_entry(Store& store, Store& bundle, const Key& key) {
  Costs costs;
  std::optional<Entry> entry;
  costs.bundle_read_ns = warm_read_ns(bundle, key, entry);
  costs.read_ns = warm_read_ns(store, key, entry);
  const std::string symbol = symbol_of(*entry);
  Binary binary;
  binary.bytes = std::move(entry->payload);
  std::vector<double> loads;
  for (int repeat = 0; repeat < 5; ++repeat) {
    loads.push_back(nanoseconds([&] { device(Backend::cpu, 0).load(binary, symbol); }));
  }
  costs.load_ns = median(loads);
  return costs;
}

// Each kernel for the first time in this process.
void start(Store& store, const std::vector<Key>& keys) {
  for (const Key& key : keys) {
    std::optional<Entry> entry = store.read(EntryKind::artifact, key);
    if (!entry) std::abort();
    Binary binary;
    binary.bytes = std::move(entry->payload);
    device(Backend::cpu, 0).load(binary, symbol_of(*entry));
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: cache_costs FOLDER\n");
    return 2;
  }
  Store store(arguments[1]);
  std::vector<Key> keys;
  size_t bytes = 0;
  for (const StoredFile& file : store.list()) {
    if (file.kind != EntryKind::artifact || !file.entry) continue;
    Key& key = keys.emplace_back();
    for (const auto& [name, value] : Key::fields_of(file.entry->key_bytes)) key.add(name, value);
    bytes += file.size_bytes;
  }
  if (keys.empty()) {
    std::fprintf(stderr, "cache_costs: %s holds no kernel\n", arguments[1]);
    return 1;
  }
  const double identity_ms =
      nanoseconds([] { static_cast<void>(compiler_for(Backend::cpu).identity()); }) / 1e6;
  const double start_ms = nanoseconds([&] { start(store, keys); }) / 1e6;
  std::vector<BundledEntry> bundled;
  for (const Key& key : keys)
    bundled.push_back({EntryKind::artifact, *store.find(EntryKind::artifact, key.hash())});
  const std::string bundle_file = std::string(arguments[1]) + "/costs.ljb";
  std::ofstream(bundle_file, std::ios::binary) << encode_bundle(std::move(bundled), "");
  Store bundle("", {bundle_file});
  std::vector<double> reads, bundle_reads, loads;
  for (const Key& key : keys) {
    const Costs costs = warm_entry(store, bundle, key);
    reads.push_back(costs.read_ns / 1e3);
    bundle_reads.push_back(costs.bundle_read_ns / 1e3);
    loads.push_back((costs.read_ns + costs.load_ns) / 1e3);
  }
  const std::string line = liger::fmt::format(
      "{{\"dispatch_hit_ns\": {:.1f}, \"entries\": {}, \"entry_bytes\": {}, \"read_us\": {:.2f}, "
      "\"bundle_read_us\": {:.2f}, "
      "\"read_and_load_us\": {:.1f}, \"identity_ms\": {:.2f}, \"all_kernels_ms\": {:.2f}}}\n",
      dispatch_hit_ns(), keys.size(), bytes / keys.size(), median(reads), median(bundle_reads),
      median(loads), identity_ms, start_ms);
  std::fputs(line.c_str(), stdout);
  return 0;
}
