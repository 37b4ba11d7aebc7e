#include "runtime/kernels.h"

#include <charconv>
#include <chrono>
#include <map>

#include "base/counters.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/log.h"
#include "base/process_state.h"
#include "base/profile_range.h"
#include "base/text.h"
#include "cache/layers.h"
#include "runtime/group.h"
#include "runtime/node_lock.h"
#include "runtime/patience.h"
#include "runtime/served_builds.h"
#include "runtime/single_flight.h"
#include "runtime/source_hash.h"

namespace liger {
namespace {

constexpr std::string_view artifact_schema = "1";
constexpr std::string_view numerics = "fixed-tree,fmad=false";

struct Made {
  Binary binary;
  bool by_another = false;  // an earlier or another process
};

struct Tables {
  SingleFlight<std::shared_ptr<const Made>> artifacts;
  std::mutex mutex;
  std::map<Device*, SingleFlight<const Kernel*>> loaded;

  SingleFlight<const Kernel*>& loaded_on(Device& device) {
    const std::lock_guard lock(mutex);
    return loaded[&device];
  }
};

Tables& tables() { return ProcessState<Tables>::get(); }

std::string meta_of(const Unit& unit, const Binary& binary) {
  const Resources& resources = binary.resources;
  return fmt::format(
      "symbol={}\nkernel={}\nspec={}\nregisters={}\nspill_bytes={}\nstack_bytes={}\nshared_bytes={}"
      "\n"
      "compile_ms={:.1f}\n",
      entry_symbol(unit.kernel), unit.kernel, unit.spec, resources.registers, resources.spill_bytes,
      resources.stack_bytes, resources.shared_bytes, binary.compile_ms);
}

template <typename Number>
void read_number(std::string_view meta, std::string_view name, Number& number) {
  const std::string_view value = meta_value(meta, name);
  std::from_chars(value.data(), value.data() + value.size(), number);
}

Binary binary_of(Entry entry) {
  Binary binary;
  binary.bytes = std::move(entry.payload);
  read_number(entry.meta, "registers", binary.resources.registers);
  read_number(entry.meta, "spill_bytes", binary.resources.spill_bytes);
  read_number(entry.meta, "stack_bytes", binary.resources.stack_bytes);
  read_number(entry.meta, "shared_bytes", binary.resources.shared_bytes);
  read_number(entry.meta, "compile_ms", binary.compile_ms);
  return binary;
}

const std::vector<ServedBuild>& builds_instead_of_a_compiler(const Target& target) {
  static const std::vector<ServedBuild> none;
  return compiler_for(target.backend).state().found ? none : served_builds(target);
}

Key key_of(const Unit& unit, const Target& target, std::string_view compiler) {
  Key key;
  key.add("schema", artifact_schema);
  key.add("backend", name_of(target.backend));
  key.add("compiler", compiler);
  key.add("arch", target.arch);
  key.add("source", fingerprint(unit.expanded));
  key.add("options", compiler_for(target.backend).options(target));
  key.add("numerics", numerics);
  return key;
}

std::string short_name(const Key& key) { return key.hash().hex().substr(0, 12); }

[[noreturn]] void refuse_offline(const Key& key, const Unit& unit, const Target& target,
                                 std::string_view trouble) {
  throw Error(
      ErrorKind::compile,
      fmt::format("{} for {} {} (key {}) {}, and LIGER_JIT_CACHE_MODE=offline forbids to "
                  "compile it. Run once with LIGER_JIT_CACHE_MODE=readwrite, or fill the "
                  "cache with `liger-jit compile`, and list its folder in "
                  "LIGER_JIT_CACHE_READONLY",
                  unit.kernel, name_of(target.backend), target.arch, key.hash().hex(), trouble));
}

std::shared_ptr<const Made> compiled(const Key& key, const Unit& unit, const Target& target,
                                     Standing standing = Standing::keep) {
  if (environment().cache_mode == CacheMode::offline)
    refuse_offline(key, unit, target, "is in no layer of the cache");
  counters().compiled += 1;
  const ProfileRange range("compile", unit.kernel);
  auto made = std::make_shared<Made>();
  made->binary = compiler_for(target.backend).compile(unit, target);
  const Binary& binary = made->binary;
  Patience::compile_took(binary.compile_ms);
  counters().compile_microseconds += static_cast<uint64_t>(binary.compile_ms * 1000);
  log_event(Event::compile, {{"kernel", unit.kernel},
                             {"arch", target.arch},
                             {"ms", binary.compile_ms},
                             {"key", short_name(key)}});
  publish_entry(Shelf::artifact, key, meta_of(unit, binary), binary.bytes, standing);
  return made;
}

std::shared_ptr<const Made> made_by_another(Entry entry) {
  return std::make_shared<Made>(Made{binary_of(std::move(entry)), true});
}

// One process of a node at a time, unless that takes too long.
std::shared_ptr<const Made> made_on_node(const Key& key, const Unit& unit, const Target& target) {
  const NodeLock lock(key.hash(), Store::user().folder());
  if (lock.waited()) {
    if (auto entry = read_near(Shelf::artifact, key)) return made_by_another(std::move(*entry));
  }
  return compiled(key, unit, target);
}

// One rank of a job at a time, unless that takes too long.
std::shared_ptr<const Made> made_in(Group& group, const Key& key, const Unit& unit,
                                    const Target& target) {
  if (std::optional<Entry> entry = group.take(key)) {
    keep_near(Shelf::artifact, key, *entry);
    return made_by_another(std::move(*entry));
  }
  try {
    auto made = made_on_node(key, unit, target);
    group.give(key, {{}, meta_of(unit, made->binary), made->binary.bytes});
    return made;
  } catch (...) {
    group.give_up(key);
    throw;
  }
}

std::shared_ptr<const Made> obtained(const Key& key, const Unit& unit, const Target& target) {
  return tables().artifacts.get(key.hash(), [&] {
    if (auto entry = read_entry(Shelf::artifact, key)) return made_by_another(std::move(*entry));
    const auto group = Group::current();
    return group ? made_in(*group, key, unit, target) : made_on_node(key, unit, target);
  });
}

// Of intermediate code that it does not take a driver says no more than that.
Error with_words_of_compiler(const Error& error, const Unit& unit, const Target& target) {
  Compiler& compiler = compiler_for(target.backend);
  const std::string other = compiler.intermediate(target);
  if (other.empty() || error.kind() != ErrorKind::device) return error;
  const CompilerState state = compiler.state();
  return Error(ErrorKind::device,
               fmt::format("{} for {}: {}. The code was made for {}, because {} ({}) does not know "
                           "{}, and this driver cannot finish it. Install a compiler that does "
                           "(`pip install --upgrade nvidia-cuda-nvrtc`, for CUDA 12 "
                           "nvidia-cuda-nvrtc-cu12) or name it with LIGER_JIT_NVRTC",
                           unit.kernel, target.arch, error.what(), other, state.version, state.path,
                           target.arch));
}

Function* load(const Binary& binary, const Unit& unit, Device& device) {
  const ProfileRange range("load", unit.kernel);
  const auto begin = std::chrono::steady_clock::now();
  Function* function = nullptr;
  try {
    function = device.load(binary, entry_symbol(unit.kernel));
  } catch (const Error& error) {
    throw with_words_of_compiler(error, unit, device.properties().target);
  }
  const auto spent = std::chrono::steady_clock::now() - begin;
  counters().load_microseconds +=
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(spent).count());
  return function;
}

const Kernel* loaded(const Unit& unit, Device& device) {
  const Target& target = device.properties().target;
  const Key key = artifact_key(unit, target);
  std::shared_ptr<const Made> made = obtained(key, unit, target);
  Function* function = nullptr;
  try {
    function = load(made->binary, unit, device);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::device || !made->by_another) throw;
    counters().corrupt += 1;
    log_event(Event::corrupt, {{"kernel", unit.kernel},
                               {"arch", target.arch},
                               {"key", short_name(key)},
                               {"why", error.what()}});
    if (environment().cache_mode == CacheMode::offline)
      refuse_offline(key, unit, target, fmt::format("was found, but {}", error.what()));
    tables().artifacts.forget(key.hash());
    made = tables().artifacts.get(key.hash(),
                                  [&] { return compiled(key, unit, target, Standing::replace); });
    function = load(made->binary, unit, device);
  }
  log_event(Event::load,
            {{"kernel", unit.kernel}, {"arch", target.arch}, {"key", short_name(key)}});
  return new Kernel{unit.kernel, &device, function, made->binary.resources};
}

template <typename MakeUnit>
const Kernel* kernel_of_source(const Hash128& source, Device& device, bool may_load,
                               MakeUnit make_unit) {
  SingleFlight<const Kernel*>& table = tables().loaded_on(device);
  if (const auto found = table.ready(source)) {
    counters().hit_memory += 1;
    return *found;
  }
  if (!may_load) return nullptr;
  return table.get(source, [&] { return loaded(make_unit(), device); });
}

}  // namespace

std::string compiler_identity(const Target& target) {
  const std::vector<ServedBuild>& served = builds_instead_of_a_compiler(target);
  return served.empty() ? compiler_for(target.backend).identity() : served.front().compiler;
}

bool may_compile(const Target& target) {
  return environment().cache_mode != CacheMode::offline &&
         compiler_for(target.backend).state().found;
}

Key artifact_key(const Unit& unit, const Target& target) {
  const std::vector<ServedBuild>& served = builds_instead_of_a_compiler(target);
  for (const ServedBuild& build : served) {
    Key key = key_of(unit, build.target, build.compiler);
    if (served.size() == 1 || Store::user().find(Shelf::artifact, key.hash())) return key;
  }
  return key_of(unit, target, compiler_identity(target));
}

std::shared_ptr<const Binary> artifact(const Unit& unit, const Target& target) {
  const auto made = obtained(artifact_key(unit, target), unit, target);
  return {made, &made->binary};
}

bool is_made_elsewhere(const Unit& unit, const Target& target) {
  const Key key = artifact_key(unit, target);
  if (tables().artifacts.ready(key.hash())) return false;
  if (NodeLock::busy(key.hash(), Store::user().folder())) return true;
  const auto group = Group::current();
  return group && group->promised_elsewhere(key);
}

const Kernel* kernel(const Unit& unit, Device& device, bool may_load) {
  return kernel_of_source(hash128(unit.expanded), device, may_load, [&] { return unit; });
}

const Kernel* kernel(const KernelTemplate& made_from, const Spec& spec, Device& device,
                     bool may_load) {
  return kernel_of_source(source_hash(made_from, spec), device, may_load,
                          [&] { return make_unit(made_from, spec); });
}

}  // namespace liger
