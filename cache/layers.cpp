#include "cache/layers.h"

#include "base/environment.h"
#include "cache/remote.h"

namespace liger {

std::optional<Entry> read_local(EntryKind kind, const Key& key) {
  if (environment().cache_mode == CacheMode::refresh) return std::nullopt;
  return Store::user().read(kind, key);
}

void write_through(EntryKind kind, const Key& key, const Entry& entry) {
  const bool replace = environment().cache_mode == CacheMode::refresh;
  Store::user().publish(kind, key, entry.meta, entry.payload, replace);
}

std::optional<Entry> read_entry(EntryKind kind, const Key& key) {
  if (environment().cache_mode == CacheMode::refresh) return std::nullopt;
  if (auto entry = read_local(kind, key)) return entry;
  Remote* const remote = Remote::of_process();
  if (remote == nullptr) return std::nullopt;
  std::optional<Entry> entry = remote->read(kind, key);
  if (entry) write_through(kind, key, *entry);
  return entry;
}

void publish_entry(EntryKind kind, const Key& key, std::string_view meta, std::string_view payload,
                   Standing standing) {
  const CacheMode mode = environment().cache_mode;
  if (mode == CacheMode::readonly) return;
  const bool replace = standing == Standing::replace || mode == CacheMode::refresh;
  Store::user().publish(kind, key, meta, payload, replace);
  if (Remote* const remote = Remote::of_process())
    remote->publish(kind, key, encode_entry(key.bytes(), meta, payload), replace);
}

}  // namespace liger
