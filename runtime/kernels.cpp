#include "runtime/kernels.h"

#include <chrono>
#include <map>

#include "base/counters.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/log.h"
#include "base/process_state.h"
#include "base/profile_range.h"
#include "base/text.h"
#include "runtime/binary_recipe.h"
#include "runtime/compile/served_builds.h"
#include "runtime/compile/source_hash.h"
#include "runtime/share/group.h"
#include "runtime/share/node_lock.h"
#include "runtime/share/single_flight.h"

namespace liger {
namespace {

constexpr std::string_view artifact_schema = "1";
constexpr std::string_view numerics = "fixed-tree,fmad=false";

using ObtainedBinary = Obtained<Binary>;

struct Tables {
  SingleFlight<std::shared_ptr<const ObtainedBinary>> artifacts;
  std::mutex mutex;
  std::map<Device*, SingleFlight<const Kernel*>> loaded;

  SingleFlight<const Kernel*>& loaded_on(Device& device) {
    const std::lock_guard lock(mutex);
    return loaded[&device];
  }
};

Tables& tables() { return ProcessState<Tables>::get(); }

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

std::shared_ptr<const ObtainedBinary> obtained(const BinaryRecipe& recipe) {
  return tables().artifacts.get(recipe.key.hash(), [&] {
    return std::make_shared<const ObtainedBinary>(obtain_once(recipe));
  });
}

std::shared_ptr<const ObtainedBinary> obtained_anew(const BinaryRecipe& recipe) {
  tables().artifacts.forget(recipe.key.hash());
  return tables().artifacts.get(recipe.key.hash(), [&] {
    return std::make_shared<const ObtainedBinary>(obtain_anew(recipe));
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
  const BinaryRecipe recipe(artifact_key(unit, target), unit, target);
  std::shared_ptr<const ObtainedBinary> binary = obtained(recipe);
  Function* function = nullptr;
  try {
    function = load(binary->value, unit, device);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::device || binary->origin == Origin::made) throw;
    counters().corrupt += 1;
    log_event(Event::corrupt, {{"kernel", unit.kernel},
                               {"arch", target.arch},
                               {"key", recipe.short_key()},
                               {"why", error.what()}});
    if (environment().cache_mode == CacheMode::offline)
      recipe.refuse_offline(fmt::format("was found, but {}", error.what()));
    binary = obtained_anew(recipe);
    function = load(binary->value, unit, device);
  }
  log_event(Event::load,
            {{"kernel", unit.kernel}, {"arch", target.arch}, {"key", recipe.short_key()}});
  return new Kernel{unit.kernel, &device, function, binary->value.resources};
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
    if (served.size() == 1 || Store::user().find(EntryKind::artifact, key.hash())) return key;
  }
  return key_of(unit, target, compiler_identity(target));
}

std::shared_ptr<const Binary> artifact(const Unit& unit, const Target& target) {
  const auto binary = obtained(BinaryRecipe(artifact_key(unit, target), unit, target));
  return {binary, &binary->value};
}

bool is_made_elsewhere(const Unit& unit, const Target& target) {
  const Key key = artifact_key(unit, target);
  if (tables().artifacts.ready(key.hash())) return false;
  if (NodeLock::busy(key.hash(), Store::user().folder())) return true;
  const auto group = Group::current();
  return group && group->claimed_elsewhere(key);
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
