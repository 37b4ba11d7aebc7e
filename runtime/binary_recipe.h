// A compiled unit: as an entry of the cache, and how it is compiled.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "runtime/compile/compiler.h"
#include "runtime/compile/target.h"
#include "runtime/compile/unit.h"
#include "runtime/share/obtain_once.h"

namespace liger {

// Every entry suffices; whether a loader takes it is seen later. Used by one thread.
class BinaryRecipe final : public Recipe<Binary> {
 public:
  // Unit and target outlive it.
  BinaryRecipe(Key key, const Unit& unit, const Target& target)
      : Recipe(EntryKind::artifact, std::move(key), Ranks::share), unit_(unit), target_(target) {}

  std::optional<Binary> accept(const Entry& entry) const override;
  // Raises Error(compile) or Error(unsupported); as refuse_offline() where it may not compile.
  Binary make(const std::optional<Entry>& start) const override;
  Entry entry_of(const Binary& binary) const override;

  // Raises Error(compile): `trouble` continues "KERNEL for TARGET (key KEY) …".
  [[noreturn]] void refuse_offline(std::string_view trouble) const;

  std::string short_key() const;  // for the log

 private:
  const Unit& unit_;
  const Target& target_;
};

}  // namespace liger
