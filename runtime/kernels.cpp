#include "runtime/kernels.h"

#include <charconv>
#include <map>

#include "base/counters.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "cache/store.h"
#include "runtime/single_flight.h"

namespace liger {
namespace {

constexpr std::string_view artifact_schema = "1";
constexpr std::string_view numerics = "fixed-tree,fmad=false";

struct Made {
  Binary binary;
  bool from_disk = false;
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
      "symbol=liger_entry\nkernel={}\nregisters={}\nspill_bytes={}\nstack_bytes={}\n"
      "shared_bytes={}\ncompile_ms={:.1f}\n",
      unit.kernel, resources.registers, resources.spill_bytes, resources.stack_bytes,
      resources.shared_bytes, binary.compile_ms);
}

template <typename Number>
void read_number(std::string_view meta, std::string_view name, Number& number) {
  const std::string label = fmt::format("{}=", name);
  size_t at = meta.starts_with(label) ? 0 : meta.find("\n" + label);
  if (at == std::string_view::npos) return;
  at = meta.find('=', at) + 1;
  std::from_chars(meta.data() + at, meta.data() + meta.size(), number);
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

std::string short_name(const Key& key) { return key.hash().hex().substr(0, 12); }

std::shared_ptr<const Made> compiled(const Key& key, const Unit& unit, const Target& target) {
  counters().compiled += 1;
  auto made = std::make_shared<Made>();
  made->binary = compiler_for(target.backend).compile(unit, target);
  const Binary& binary = made->binary;
  counters().compile_microseconds += static_cast<uint64_t>(binary.compile_ms * 1000);
  log_event(Event::compile, fmt::format("{} {} {:.0f}ms key={}", unit.kernel, target.arch,
                                        binary.compile_ms, short_name(key)));
  Store::user().publish(Shelf::artifact, key, meta_of(unit, binary), binary.bytes);
  return made;
}

std::shared_ptr<const Made> obtained(const Key& key, const Unit& unit, const Target& target) {
  return tables().artifacts.get(key.hash(), [&]() -> std::shared_ptr<const Made> {
    std::optional<Entry> entry = Store::user().read(Shelf::artifact, key);
    if (!entry) return compiled(key, unit, target);
    return std::make_shared<Made>(Made{binary_of(std::move(*entry)), true});
  });
}

// The publish protocol lets the first writer win, so an entry that the loader refuses must go
// first. Those of read-only folders are not ours.
void remove_entry(const Key& key) {
  if (Store::user().folder().empty()) return;
  const std::string own = Store::user().folder() + "/v";
  for (const StoredFile& file : Store::user().list())
    if (file.path.starts_with(own) && file.entry && file.entry->key_bytes == key.bytes())
      remove_file(file.path);
}

const Kernel* loaded(const Unit& unit, Device& device) {
  const Target& target = device.properties().target;
  const Key key = artifact_key(unit, target);
  std::shared_ptr<const Made> made = obtained(key, unit, target);
  Function* function = nullptr;
  try {
    function = device.load(made->binary);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::device || !made->from_disk) throw;
    log_event(Event::corrupt, fmt::format("{} {} refused by the loader key={}", unit.kernel,
                                          target.arch, short_name(key)));
    remove_entry(key);
    tables().artifacts.forget(key.hash());
    made = tables().artifacts.get(key.hash(), [&] { return compiled(key, unit, target); });
    function = device.load(made->binary);
  }
  log_event(Event::load, fmt::format("{} {} key={}", unit.kernel, target.arch, short_name(key)));
  return new Kernel{unit.kernel, &device, function, made->binary.resources};
}

}  // namespace

Key artifact_key(const Unit& unit, const Target& target) {
  Compiler& compiler = compiler_for(target.backend);
  Key key;
  key.add("schema", artifact_schema);
  key.add("backend", name_of(target.backend));
  key.add("compiler", compiler.identity());
  key.add("arch", target.arch);
  key.add("source", unit.expanded);
  key.add("options", compiler.options(target));
  key.add("numerics", numerics);
  return key;
}

std::shared_ptr<const Binary> artifact(const Unit& unit, const Target& target) {
  const auto made = obtained(artifact_key(unit, target), unit, target);
  return {made, &made->binary};
}

const Kernel* kernel(const Unit& unit, Device& device, bool may_load) {
  SingleFlight<const Kernel*>& table = tables().loaded_on(device);
  const Hash128 key = hash128(unit.expanded);
  if (const auto found = table.ready(key)) {
    counters().hit_memory += 1;
    return *found;
  }
  if (!may_load) return nullptr;
  return table.get(key, [&] { return loaded(unit, device); });
}

}  // namespace liger
