#include "runtime/compile/source_hash.h"

#include "base/memo.h"
#include "base/process_state.h"

namespace liger {

namespace {

struct SourceHashes : Memo<Hash128> {
  SourceHashes() : Memo(4096) {}
};

}  // namespace

Hash128 source_hash(const KernelTemplate& made_from, const Spec& spec) {
  std::string key;
  append_bytes(key, made_from.file);
  append_bytes(key, made_from.kernel);
  append_bytes(key, spec);
  SourceHashes& known = ProcessState<SourceHashes>::get();
  if (const auto hash = known.find(key)) return *hash;
  const Hash128 hash = hash128(make_unit(made_from, spec).expanded);
  known.put(std::move(key), hash);
  return hash;
}

}  // namespace liger
