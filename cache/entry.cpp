#include "cache/entry.h"

#include <algorithm>

#include "base/text.h"
#include "cache/entry_format.h"
#include "cache/little_endian.h"

namespace liger {

std::string_view folder_of(EntryKind kind) {
  return kind == EntryKind::artifact ? artifact_folder : tune_folder;
}

std::string entry_name(EntryKind kind, const Hash128& key_hash) {
  return fmt::format("{}/{}", folder_of(kind), key_hash.hex());
}

std::string_view meta_value(std::string_view meta, std::string_view name) {
  while (!meta.empty()) {
    const std::string_view line = meta.substr(0, meta.find('\n'));
    if (line.starts_with(name) && line.substr(name.size()).starts_with('='))
      return line.substr(name.size() + 1);
    meta.remove_prefix(std::min(line.size() + 1, meta.size()));
  }
  return {};
}

std::string encode_entry(std::string_view key_bytes, std::string_view meta,
                         std::string_view payload) {
  std::string bytes(header_bytes, '\0');
  bytes.reserve(header_bytes + key_bytes.size() + meta.size() + payload.size());
  bytes.append(key_bytes).append(meta).append(payload);
  const Hash128 body_hash = hash128(std::string_view(bytes).substr(header_bytes));

  char* header = bytes.data();
  entry_magic.copy(header + magic_at, entry_magic.size());
  put_little(header + schema_at, entry_schema);
  put_little(header + header_length_at, static_cast<uint32_t>(header_bytes));
  put_little(header + key_length_at, uint64_t{key_bytes.size()});
  put_little(header + meta_length_at, uint64_t{meta.size()});
  put_little(header + payload_length_at, uint64_t{payload.size()});
  put_little(header + body_hash_at, body_hash.low);
  put_little(header + body_hash_at + sizeof(uint64_t), body_hash.high);
  put_little(header + header_hash_at, hash64(header, header_hash_at));
  return bytes;
}

std::optional<Entry> decode_entry(std::string_view bytes) {
  if (bytes.size() < header_bytes) return std::nullopt;
  const char* header = bytes.data();
  if (bytes.substr(magic_at, entry_magic.size()) != entry_magic) return std::nullopt;
  if (get_little<uint32_t>(header + schema_at) != entry_schema) return std::nullopt;
  if (get_little<uint32_t>(header + header_length_at) != header_bytes) return std::nullopt;
  // The body's hash alone would let two wrong lengths shift the border between two parts.
  if (get_little<uint64_t>(header + header_hash_at) != hash64(header, header_hash_at)) {
    return std::nullopt;
  }

  const std::string_view body = bytes.substr(header_bytes);
  const uint64_t key_bytes = get_little<uint64_t>(header + key_length_at);
  const uint64_t meta_bytes = get_little<uint64_t>(header + meta_length_at);
  const uint64_t payload_bytes = get_little<uint64_t>(header + payload_length_at);
  // One at a time: their sum may overflow.
  if (key_bytes > body.size()) return std::nullopt;
  if (meta_bytes > body.size() - key_bytes) return std::nullopt;
  if (payload_bytes != body.size() - key_bytes - meta_bytes) return std::nullopt;

  const Hash128 stored{get_little<uint64_t>(header + body_hash_at + sizeof(uint64_t)),
                       get_little<uint64_t>(header + body_hash_at)};
  if (hash128(body) != stored) return std::nullopt;
  return Entry{std::string(body.substr(0, key_bytes)),
               std::string(body.substr(key_bytes, meta_bytes)),
               std::string(body.substr(key_bytes + meta_bytes))};
}

}  // namespace liger
