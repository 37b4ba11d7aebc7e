#include "ops/tuning.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <mutex>
#include <random>
#include <unordered_map>

#include "autotune/record.h"
#include "base/counters.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "cache/store.h"

namespace liger {

namespace {

constexpr int64_t most_bytes_measured = int64_t{256} << 20;  // of one set of tensors
constexpr int64_t most_bytes_filled = int64_t{32} << 20;     // of one tensor

struct Picks {
  std::mutex mutex;
  std::unordered_map<Hash128, std::string, Hash128Hasher> by_key;  // candidate's text
};
Picks& picks() {
  static auto* table = new Picks();
  return *table;
}

std::mutex& measuring() {  // one search at a time: two would time each other
  static auto* mutex = new std::mutex();
  return *mutex;
}

// Memory of a set of tensors, outside torch's allocator.
class Scratch {
 public:
  explicit Scratch(Device& device) : device_(device) {}
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    for (void* memory : memory_) device_.release(memory);
  }

  // Null when there is not enough.
  void* take(int64_t size_bytes, bool floating) {
    void* memory = device_.allocate(std::max<int64_t>(size_bytes, 256));
    if (!memory) return nullptr;
    memory_.push_back(memory);
    const auto& pattern = floating ? noise() : zeros();
    const int64_t end = floating ? std::min(size_bytes, most_bytes_filled) : size_bytes;
    for (int64_t at = 0; at < end; at += static_cast<int64_t>(pattern.size())) {
      const int64_t part = std::min<int64_t>(end - at, static_cast<int64_t>(pattern.size()));
      if (!device_.write(static_cast<char*>(memory) + at, pattern.data(), part)) return nullptr;
    }
    return memory;
  }

 private:
  // Small normal numbers in every floating type: the exponent's high bits are those of 2^-2 to 2^1.
  static const std::vector<char>& noise() {
    static const auto* bytes = [] {
      auto* made = new std::vector<char>(size_t{8} << 20);
      std::minstd_rand random(1);
      for (size_t i = 0; i < made->size(); i += 2) {
        (*made)[i] = static_cast<char>(random());
        (*made)[i + 1] = static_cast<char>((random() & 0x81) | 0x3e);
      }
      return made;
    }();
    return *bytes;
  }
  static const std::vector<char>& zeros() {
    static const auto* bytes = new std::vector<char>(size_t{1} << 20);
    return *bytes;
  }

  Device& device_;
  std::vector<void*> memory_;
};

int64_t output_bytes(const OutputPlan& output) {
  int64_t count = 1;
  for (const int64_t size : output.sizes) count *= size;
  return count * size_bytes(output.dtype);
}

int64_t bytes_of_call(const Call& call) {
  int64_t bytes = 0;
  for (size_t i = 0; i < call.op().inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (tensor.defined) bytes += tensor.extent() * size_bytes(tensor.dtype);
  }
  for (const OutputPlan& output : plan_outputs(call)) bytes += output_bytes(output);
  for (const Temporary& temporary : call.op().temporaries) bytes += temporary.size_bytes(call);
  return bytes;
}

int64_t rows_of_call(const Call& call) {
  for (size_t i = 0; i < call.op().inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (tensor.defined && tensor.dims > 0)
      return std::max<int64_t>(tensor.count() / tensor.last_size(), 1);
  }
  return 1;
}

Call small_enough(const Call& call) {
  const int64_t bytes = bytes_of_call(call);
  if (bytes <= most_bytes_measured) return call;
  return call.with_rows(std::max<int64_t>(1, rows_of_call(call) * most_bytes_measured / bytes));
}

// Pointers by slot for one set of tensors; empty when memory is short.
std::vector<void*> take_tensors(const Call& call, Scratch& scratch) {
  std::vector<void*> pointers;
  const auto add = [&](bool wanted, int64_t bytes, bool floating) {
    pointers.push_back(wanted ? scratch.take(bytes, floating) : nullptr);
    return !wanted || pointers.back() != nullptr;
  };
  for (size_t i = 0; i < call.op().inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (!add(tensor.defined, tensor.extent() * size_bytes(tensor.dtype), is_float(tensor.dtype)))
      return {};
  }
  for (const OutputPlan& output : plan_outputs(call)) {
    const int64_t bytes = output_bytes(output);
    if (!add(bytes > 0, bytes, is_float(output.dtype))) return {};
  }
  for (const Temporary& temporary : call.op().temporaries) {
    if (!add(true, temporary.size_bytes(call), true)) return {};
  }
  return pointers;
}

struct Candidate {
  Knobs knobs;
  std::string text;
  const Kernel* kernel = nullptr;
  Launch launch;
};

// Fills in times of candidates that the record lacks. False when nothing could be measured.
bool measure(const KernelOf& kernel, const Call& call, Device& device, Stream stream,
             std::vector<Candidate>& candidates, TuneRecord& record) {
  const Call sized = small_enough(call);
  Scratch scratch(device);
  std::vector<std::vector<void*>> sets;
  const int64_t bytes = std::max<int64_t>(bytes_of_call(sized), 1);
  // Enough sets that a launch never finds its inputs in the L2 cache.
  const int64_t wanted = std::clamp<int64_t>(3 * device.properties().l2_bytes / bytes + 1, 1, 16);
  for (int64_t i = 0; i < wanted; ++i) {
    auto pointers = take_tensors(sized, scratch);
    if (pointers.empty()) break;
    sets.push_back(std::move(pointers));
  }
  if (sets.empty()) return false;

  size_t next_set = 0;
  Fault fault_of_host;
  void* const fault = device.fault() ? device.fault_pointer() : &fault_of_host;
  const auto launch_once = [&](Candidate& candidate) {
    const auto& pointers = sets[next_set++ % sets.size()];
    for (const auto& [word, slot] : candidate.launch.pointers) {
      candidate.launch.words[word] =
          reinterpret_cast<uint64_t>(slot == fault_slot ? fault : pointers[slot]);
    }
    device.launch(candidate.launch.function, candidate.launch.blocks, candidate.launch.threads,
                  candidate.launch.words.data(), candidate.launch.words.size() * 8, stream);
  };
  std::vector<Candidate*> missing;
  for (Candidate& candidate : candidates) {
    if (!candidate.kernel || record.find(candidate.text)) continue;
    candidate.launch = launch_of(kernel, sized, candidate.knobs);
    candidate.launch.function = candidate.kernel->function;
    if (candidate.launch.blocks == 0) return false;
    missing.push_back(&candidate);
  }
  if (missing.empty()) return true;

  launch_once(*missing.front());  // warms the clock
  const double single_ms = device.time_ms(stream, [&] { launch_once(*missing.front()); });
  const int repeats = std::clamp(static_cast<int>(0.1 / std::max(single_ms, 1e-4)), 1, 20);
  const auto timings =
      search(static_cast<int>(missing.size()),
             [&](int i) {
               return device.time_ms(stream, [&] {
                 for (int repeat = 0; repeat < repeats; ++repeat) launch_once(*missing[i]);
               }) / repeats;
             },
             {.budget_ms =
                  environment().autotune == AutotuneMode::full ? 500.0 / repeats : 50.0 / repeats});
  for (size_t i = 0; i < missing.size(); ++i) record.put(missing[i]->text, timings[i]);
  return true;
}

std::string family_of(const KernelOf& kernel, const Call& call) {
  const Unit generic = make_unit(kernel.source, kernel.name, kernel.spec(call));
  return generic.expanded;
}

const Knobs* named(const std::vector<Candidate>& candidates, const std::string& text) {
  for (const Candidate& candidate : candidates) {
    if (candidate.text == text) return &candidate.knobs;
  }
  return nullptr;
}

// The pick that the times of all candidates name; null while one of them is not known.
const Knobs* pick_of(const std::vector<Candidate>& candidates, const TuneRecord& record) {
  std::vector<Timing> timings;
  for (const Candidate& candidate : candidates) {
    const Timing* timing = record.find(candidate.text);
    if (!timing) return nullptr;
    timings.push_back(*timing);
  }
  const int index = choose(timings);
  return index < 0 ? nullptr : &candidates[index].knobs;
}

}  // namespace

Knobs choose_knobs(const KernelOf& kernel, const Call& call, Device& device, Stream stream,
                   bool may_measure) {
  std::vector<Candidate> candidates;
  for (Knobs& knobs : candidates_of(kernel, call)) {
    std::string text = text_of(knobs);
    candidates.push_back({std::move(knobs), std::move(text), nullptr, {}});
  }
  if (candidates.size() == 1 || environment().autotune == AutotuneMode::off)
    return candidates.front().knobs;

  const int bucket = std::bit_width(static_cast<uint64_t>(rows_of_call(call)));
  const Target& target = device.properties().target;
  const Key key = tune_key(kernel.name, hash128(family_of(kernel, call)).hex(), bucket,
                           device.properties(), compiler_for(target.backend).identity());
  {
    std::lock_guard lock(picks().mutex);
    const auto found = picks().by_key.find(key.hash());
    if (found != picks().by_key.end()) {
      if (const Knobs* knobs = named(candidates, found->second)) return *knobs;
    }
  }
  const auto remember = [&](const Knobs& knobs) {
    std::lock_guard lock(picks().mutex);
    // The first pick stands for the life of the process.
    return *named(candidates, picks().by_key.emplace(key.hash(), text_of(knobs)).first->second);
  };
  TuneRecord record;
  if (const auto entry = Store::user().read(Shelf::tune, key)) {
    record = TuneRecord::decode(entry->payload).value_or(TuneRecord{});
  }
  if (const Knobs* knobs = pick_of(candidates, record)) {
    counters().tune_hit++;
    return remember(*knobs);
  }
  if (!may_measure) return candidates.front().knobs;

  std::lock_guard one_search(measuring());
  {
    std::lock_guard lock(picks().mutex);  // another thread may have searched while this one waited
    const auto found = picks().by_key.find(key.hash());
    if (found != picks().by_key.end()) return *named(candidates, found->second);
  }
  const auto begin = std::chrono::steady_clock::now();
  for (const Candidate& candidate : candidates) {
    prefetch(make_unit(kernel.source, kernel.name, full_spec(kernel, call, candidate.knobs)),
             target);
  }
  std::string last_error;
  for (Candidate& candidate : candidates) {
    try {
      const Unit unit =
          make_unit(kernel.source, kernel.name, full_spec(kernel, call, candidate.knobs));
      candidate.kernel = liger::kernel(unit, device);
      // A spill costs memory traffic that no size of block wins back.
      if (candidate.kernel && candidate.kernel->resources.spill_bytes > 0)
        candidate.kernel = nullptr;
      if (!candidate.kernel) record.put(candidate.text, Timing{});
    } catch (const Error& error) {
      last_error = error.what();
      record.put(candidate.text, Timing{});
    }
  }
  const auto first =
      std::find_if(candidates.begin(), candidates.end(),
                   [](const Candidate& candidate) { return candidate.kernel != nullptr; });
  if (first == candidates.end()) {
    if (!last_error.empty()) throw Error(ErrorKind::compile, last_error);
    return candidates.front().knobs;
  }
  Knobs chosen = first->knobs;
  if (measure(kernel, call, device, stream, candidates, record)) {
    if (const Knobs* knobs = pick_of(candidates, record)) chosen = *knobs;
    Store::user().publish(Shelf::tune, key,
                          fmt::format("kernel={}\npick={}\n", kernel.name, text_of(chosen)),
                          record.encode());
  }
  counters().tuned++;
  const auto spent = std::chrono::steady_clock::now() - begin;
  counters().tune_microseconds +=
      std::chrono::duration_cast<std::chrono::microseconds>(spent).count();
  log_event(Event::tune, fmt::format("{} {} {} pick={}", call.op().name, kernel.name, target.arch,
                                     text_of(chosen)));
  return remember(chosen);
}

}  // namespace liger
