#include "runtime/source_hash.h"

#include "base/memo.h"
#include "base/process_state.h"
#include "runtime/unit.h"

namespace liger {

namespace {

struct SourceHashes : Memo<Hash128> {
  SourceHashes() : Memo(4096) {}
};

}  // namespace

Hash128 source_hash(std::string_view template_file, std::string_view kernel, const Spec& spec) {
  std::string key;
  append_bytes(key, template_file);
  append_bytes(key, kernel);
  append_bytes(key, spec);
  SourceHashes& known = ProcessState<SourceHashes>::get();
  if (const auto hash = known.find(key)) return *hash;
  const Hash128 hash = hash128(make_unit(template_file, kernel, spec).expanded);
  known.put(std::move(key), hash);
  return hash;
}

}  // namespace liger
