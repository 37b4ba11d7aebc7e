#include "runtime/binary_recipe.h"

#include <charconv>

#include "base/counters.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/log.h"
#include "base/profile_range.h"
#include "base/text.h"
#include "runtime/share/wait_budget.h"

namespace liger {
namespace {

template <typename Number>
void read_number(std::string_view meta, std::string_view name, Number& number) {
  const std::string_view value = meta_value(meta, name);
  std::from_chars(value.data(), value.data() + value.size(), number);
}

}  // namespace

std::optional<Binary> BinaryRecipe::accept(const Entry& entry) const {
  Binary binary;
  binary.bytes = entry.payload;
  read_number(entry.meta, "registers", binary.resources.registers);
  read_number(entry.meta, "spill_bytes", binary.resources.spill_bytes);
  read_number(entry.meta, "stack_bytes", binary.resources.stack_bytes);
  read_number(entry.meta, "shared_bytes", binary.resources.shared_bytes);
  read_number(entry.meta, "compile_ms", binary.compile_ms);
  return binary;
}

Binary BinaryRecipe::make(const std::optional<Entry>&) const {
  if (environment().cache_mode == CacheMode::offline) refuse_offline("is in no layer of the cache");
  counters().compiled += 1;
  const ProfileRange range("compile", unit_.kernel);
  Binary binary = compiler_for(target_.backend).compile(unit_, target_);
  WaitBudget::compile_took(binary.compile_ms);
  counters().compile_microseconds += static_cast<uint64_t>(binary.compile_ms * 1000);
  log_event(Event::compile, {{"kernel", unit_.kernel},
                             {"arch", target_.arch},
                             {"ms", binary.compile_ms},
                             {"key", short_key()}});
  return binary;
}

Entry BinaryRecipe::entry_of(const Binary& binary) const {
  const Resources& resources = binary.resources;
  return {{},
          fmt::format("symbol={}\nkernel={}\nspec={}\nregisters={}\nspill_bytes={}\n"
                      "stack_bytes={}\nshared_bytes={}\ncompile_ms={:.1f}\n",
                      entry_symbol(unit_.kernel), unit_.kernel, unit_.spec, resources.registers,
                      resources.spill_bytes, resources.stack_bytes, resources.shared_bytes,
                      binary.compile_ms),
          binary.bytes};
}

void BinaryRecipe::refuse_offline(std::string_view trouble) const {
  throw Error(
      ErrorKind::compile,
      fmt::format("{} for {} {} (key {}) {}, and LIGER_JIT_CACHE_MODE=offline forbids to "
                  "compile it. Run once with LIGER_JIT_CACHE_MODE=readwrite, or fill the "
                  "cache with `liger-jit compile`, and list its folder in "
                  "LIGER_JIT_CACHE_READONLY",
                  unit_.kernel, name_of(target_.backend), target_.arch, key.hash().hex(), trouble));
}

std::string BinaryRecipe::short_key() const { return key.hash().hex().substr(0, 12); }

}  // namespace liger
