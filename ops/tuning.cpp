#include "ops/tuning.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <mutex>
#include <optional>
#include <tuple>
#include <unordered_map>

#include "autotune/record.h"
#include "base/counters.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memo.h"
#include "base/process_state.h"
#include "base/profile_range.h"
#include "base/text.h"
#include "cache/layers.h"
#include "ops/scratch.h"
#include "runtime/group.h"
#include "runtime/node_lock.h"
#include "runtime/source_hash.h"

namespace liger {

namespace {

constexpr int64_t least_bytes_measured = int64_t{1} << 20;   // of all tensors
constexpr int64_t most_bytes_measured = int64_t{256} << 20;  // of one set of tensors

struct Picks {
  std::mutex mutex;
  std::unordered_map<Hash128, Pick, Hash128Hasher> by_key;
};
Picks& picks() { return ProcessState<Picks>::get(); }

struct Measuring {
  std::mutex mutex;
};
std::mutex& measuring() {  // one search at a time: two would time each other
  return ProcessState<Measuring>::get().mutex;
}

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
  Fault fault_of_host;
  for (int64_t i = 0; i < wanted; ++i) {
    auto pointers = take_tensors(sized, scratch);
    if (pointers.empty()) break;
    pointers.resize(all_slots);
    pointers[fault_slot] = device.fault() ? device.fault_pointer() : &fault_of_host;
    pointers[blamed_slot] = const_cast<Op*>(&call.op());
    sets.push_back(std::move(pointers));
  }
  if (sets.empty()) return false;
  device.synchronize();  // what fills them is on no stream of ours

  size_t next_set = 0;
  const auto launch_once = [&](const Candidate& candidate) {
    launch(candidate.launch, device, sets[next_set++ % sets.size()].data(), stream);
  };
  std::vector<Candidate*> missing;
  for (Candidate& candidate : candidates) {
    if (!candidate.kernel || record.find(candidate.text)) continue;
    candidate.launch = launch_of(kernel, sized, candidate.knobs);
    candidate.launch.function = candidate.kernel->function;
    device.allow_shared(candidate.launch.function, candidate.launch.shared_bytes);
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

std::optional<Knobs> known_pick(const Key& key, const std::vector<Candidate>& candidates) {
  std::lock_guard lock(picks().mutex);
  const auto found = picks().by_key.find(key.hash());
  const Knobs* knobs =
      found == picks().by_key.end() ? nullptr : named(candidates, found->second.candidate);
  return knobs ? std::optional(*knobs) : std::nullopt;
}

// The first pick stands for the life of the process, unless this call has no such candidate.
Knobs remember(const Key& key, const std::string& kernel, const Knobs& knobs,
               const std::vector<Candidate>& candidates) {
  std::lock_guard lock(picks().mutex);
  const Pick own{kernel, key.hash().hex(), text_of(knobs)};
  const Pick& first = picks().by_key.emplace(key.hash(), own).first->second;
  const Knobs* standing = named(candidates, first.candidate);
  return standing ? *standing : knobs;
}

std::string meta_of(const std::string& kernel, const Knobs& knobs) {
  return fmt::format("kernel={}\npick={}\n", kernel, text_of(knobs));
}

const Knobs* pick_in(const Entry& entry, const std::vector<Candidate>& candidates) {
  return named(candidates, std::string(meta_value(entry.meta, "pick")));
}

TuneRecord record_in(const std::optional<Entry>& entry) {
  if (!entry) return {};
  return TuneRecord::decode(entry->payload).value_or(TuneRecord{});
}

// What another rank found, kept for the next run, which may have no group.
std::optional<Knobs> adopted(const Key& key, const std::optional<Entry>& of_group,
                             const TuneRecord& own, const std::vector<Candidate>& candidates) {
  const Knobs* knobs = of_group ? pick_in(*of_group, candidates) : nullptr;
  if (!knobs) return std::nullopt;
  const TuneRecord measured = record_in(of_group);
  if (!pick_of(candidates, own) && pick_of(candidates, measured))
    keep_near(Shelf::tune, key, *of_group);
  return *knobs;
}

// The pick that all ranks take: this one, unless another rank proposed its own before.
Knobs agreed_pick(Group* group, const Key& key, const std::string& kernel, const Knobs& own,
                  const TuneRecord& record, const std::vector<Candidate>& candidates) {
  if (!group) return own;
  const Entry standing = group->agree(key, {{}, meta_of(kernel, own), record.encode()});
  const Knobs* knobs = pick_in(standing, candidates);
  return knobs ? *knobs : own;
}

void prefetch_all(const KernelOf& kernel, const Call& call,
                  const std::vector<Candidate>& candidates, const Target& target, Urgency urgency) {
  for (const Candidate& candidate : candidates) {
    prefetch(unit_of(kernel, call, candidate.knobs), target, urgency);
  }
}

struct Search {
  const KernelOf& kernel;
  const Call& call;
  Device& device;
  Stream stream;
  const Key& key;

  // The fastest candidate; its record is published.
  Knobs run(std::vector<Candidate>& candidates, TuneRecord& record) const {
    const ProfileRange range("tune", kernel.name);
    const auto begin = std::chrono::steady_clock::now();
    const Target& target = device.properties().target;
    prefetch_all(kernel, call, candidates, target, Urgency::awaited);
    load(candidates, record);
    const auto first =
        std::find_if(candidates.begin(), candidates.end(),
                     [](const Candidate& candidate) { return candidate.kernel != nullptr; });
    if (first == candidates.end()) return candidates.front().knobs;
    Knobs chosen = first->knobs;
    if (measure(kernel, call, device, stream, candidates, record)) {
      if (const Knobs* knobs = pick_of(candidates, record)) chosen = *knobs;
      publish_entry(Shelf::tune, key, meta_of(kernel.name, chosen), record.encode());
    }
    counters().tuned++;
    const auto spent = std::chrono::steady_clock::now() - begin;
    counters().tune_microseconds +=
        std::chrono::duration_cast<std::chrono::microseconds>(spent).count();
    log_event(Event::tune, {{"op", call.op().name},
                            {"kernel", kernel.name},
                            {"arch", target.arch},
                            {"pick", text_of(chosen)},
                            {"ms", std::chrono::duration<double, std::milli>(spent).count()}});
    return chosen;
  }

  // Raises Error(compile) when no candidate compiles.
  void load(std::vector<Candidate>& candidates, TuneRecord& record) const {
    std::string last_error;
    bool any = false;
    for (Candidate& candidate : candidates) {
      try {
        candidate.kernel = liger::kernel(unit_of(kernel, call, candidate.knobs), device);
        any = true;
        // A spill costs memory traffic that no size of block wins back.
        if (candidate.kernel && candidate.kernel->resources.spill_bytes > 0)
          candidate.kernel = nullptr;
      } catch (const Error& error) {
        last_error = error.what();
      }
      if (!candidate.kernel) record.put(candidate.text, Timing{});
    }
    if (!any) throw Error(ErrorKind::compile, last_error);
  }
};

// One process of a node at a time, unless that takes too long.
Knobs searched_on_node(const Search& search, std::vector<Candidate>& candidates,
                       TuneRecord& record) {
  const NodeLock lock(search.key.hash(), Store::user().folder());
  if (lock.waited()) {
    record = record_in(read_near(Shelf::tune, search.key));
    if (const Knobs* knobs = pick_of(candidates, record)) {
      counters().tune_hit++;
      return *knobs;
    }
  }
  return search.run(candidates, record);
}

// One rank of a job at a time, unless that takes too long; all take what the first one found.
Knobs searched_in(Group& group, const Search& search, std::vector<Candidate>& candidates,
                  TuneRecord& record) {
  const auto of_group = group.agreed_or_promise(search.key);
  if (const auto pick = adopted(search.key, of_group, record, candidates)) return *pick;
  try {
    const Knobs own = searched_on_node(search, candidates, record);
    return agreed_pick(&group, search.key, search.kernel.name, own, record, candidates);
  } catch (...) {
    group.give_up(search.key);
    throw;
  }
}

}  // namespace

std::string family_of(const KernelOf& kernel, const Call& call) {
  return source_hash(kernel.made_from(), kernel.spec(call)).hex();
}

bool worth_measuring(const Call& call) {
  return call.on_host() || bytes_of_call(call) >= least_bytes_measured;
}

namespace {

// What `choice_for` answered: a call that differs from another in its number of rows alone needs
// neither a tune key nor a record.
struct Choices : Memo<Choice> {
  Choices() : Memo(4096) {}
};

// All that a choice depends on and that may differ between calls of a process.
std::string choice_key(const KernelOf& kernel, const Call& call, const Device& device, int bucket,
                       const std::vector<Knobs>& candidates) {
  std::string key;
  append_bytes(key, static_cast<int64_t>(reinterpret_cast<intptr_t>(&device)));
  append_bytes(key, bucket);
  append_bytes(key, kernel.source);
  append_bytes(key, kernel.name);
  append_bytes(key, kernel.spec(call));
  for (const Knobs& knobs : candidates) {
    append_bytes(key, static_cast<int64_t>(knobs.size()));
    for (const Knob& knob : knobs) {
      append_bytes(key, knob.name);
      append_bytes(key, knob.value);
    }
  }
  return key;
}

Choice choice_for(const KernelOf& kernel, const Call& call, Device& device, Stream stream,
                  bool may_measure, int bucket, const std::vector<Knobs>& list) {
  std::vector<Candidate> candidates;
  for (const Knobs& knobs : list) candidates.push_back({knobs, text_of(knobs), nullptr, {}});
  const Knobs& first = list.front();
  const Target& target = device.properties().target;
  const Key key = tune_key(kernel.name, family_of(kernel, call), bucket, device.properties(),
                           compiler_identity(target));
  if (const auto pick = known_pick(key, candidates)) return {*pick};

  TuneRecord record = record_in(read_entry(Shelf::tune, key));
  const auto group = Group::current();
  if (group) {
    if (const auto pick = adopted(key, group->agreed(key), record, candidates))
      return {remember(key, kernel.name, *pick, candidates)};
  }
  if (const Knobs* knobs = pick_of(candidates, record)) {
    counters().tune_hit++;
    const Knobs pick = agreed_pick(group.get(), key, kernel.name, *knobs, record, candidates);
    return {remember(key, kernel.name, pick, candidates)};
  }
  // A search would want every candidate, and there is nothing to compile them with.
  if (!may_compile(target)) return {first};
  if (!may_measure) return {first, true};
  if (prefetches_pending() && !call.on_host()) {
    prefetch_all(kernel, call, candidates, target, Urgency::later);
    return {first, true};
  }
  std::lock_guard one_search(measuring());
  // Another thread may have searched while this one waited.
  if (const auto pick = known_pick(key, candidates)) return {*pick};
  const Search search{kernel, call, device, stream, key};
  const Knobs pick = group ? searched_in(*group, search, candidates, record)
                           : searched_on_node(search, candidates, record);
  return {remember(key, kernel.name, pick, candidates)};
}

}  // namespace

Choice choose_knobs(const KernelOf& kernel, const Call& call, Device& device, Stream stream,
                    bool may_measure) {
  const std::vector<Knobs> candidates = candidates_of(kernel, call);
  const Knobs& first = candidates.front();
  if (candidates.size() == 1 || environment().autotune == AutotuneMode::off ||
      !worth_measuring(call)) {
    return {first};
  }
  const int bucket = std::bit_width(static_cast<uint64_t>(rows_of_call(call)));
  Choices& known = ProcessState<Choices>::get();
  std::string key = choice_key(kernel, call, device, bucket, candidates);
  if (auto choice = known.find(key)) {
    // The first candidate stands in until its rivals, which somebody asked for, are compiled.
    if (!choice->provisional || (may_measure && prefetches_pending())) return *choice;
  }
  Choice choice = choice_for(kernel, call, device, stream, may_measure, bucket, candidates);
  if (!choice.provisional || may_measure) known.put(std::move(key), choice);
  return choice;
}

std::vector<Pick> picks_made() {
  std::lock_guard lock(picks().mutex);
  std::vector<Pick> made;
  for (const auto& [hash, pick] : picks().by_key) made.push_back(pick);
  std::sort(made.begin(), made.end(), [](const Pick& one, const Pick& other) {
    return std::tie(one.kernel, one.key) < std::tie(other.kernel, other.key);
  });
  return made;
}

}  // namespace liger
