#include "cache/entry.h"

#include <algorithm>

#include "base/text.h"
#include "cache/entry_format.h"
#include "cache/little_endian.h"

namespace liger {

std::string_view folder_of(Shelf shelf) {
  return shelf == Shelf::artifact ? kArtifactFolder : kTuneFolder;
}

std::string entry_name(Shelf shelf, const Hash128& key_hash) {
  return fmt::format("{}/{}", folder_of(shelf), key_hash.hex());
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
  std::string bytes(kHeaderBytes, '\0');
  bytes.reserve(kHeaderBytes + key_bytes.size() + meta.size() + payload.size());
  bytes.append(key_bytes).append(meta).append(payload);
  const Hash128 body_hash = hash128(std::string_view(bytes).substr(kHeaderBytes));

  char* header = bytes.data();
  kEntryMagic.copy(header + kMagicAt, kEntryMagic.size());
  put_little(header + kSchemaAt, kEntrySchema);
  put_little(header + kHeaderLengthAt, static_cast<uint32_t>(kHeaderBytes));
  put_little(header + kKeyLengthAt, uint64_t{key_bytes.size()});
  put_little(header + kMetaLengthAt, uint64_t{meta.size()});
  put_little(header + kPayloadLengthAt, uint64_t{payload.size()});
  put_little(header + kBodyHashAt, body_hash.low);
  put_little(header + kBodyHashAt + sizeof(uint64_t), body_hash.high);
  put_little(header + kHeaderHashAt, hash64(header, kHeaderHashAt));
  return bytes;
}

std::optional<Entry> decode_entry(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes) return std::nullopt;
  const char* header = bytes.data();
  if (bytes.substr(kMagicAt, kEntryMagic.size()) != kEntryMagic) return std::nullopt;
  if (get_little<uint32_t>(header + kSchemaAt) != kEntrySchema) return std::nullopt;
  if (get_little<uint32_t>(header + kHeaderLengthAt) != kHeaderBytes) return std::nullopt;
  // The body's hash alone would let two wrong lengths shift the border between two parts.
  if (get_little<uint64_t>(header + kHeaderHashAt) != hash64(header, kHeaderHashAt)) {
    return std::nullopt;
  }

  const std::string_view body = bytes.substr(kHeaderBytes);
  const uint64_t key_bytes = get_little<uint64_t>(header + kKeyLengthAt);
  const uint64_t meta_bytes = get_little<uint64_t>(header + kMetaLengthAt);
  const uint64_t payload_bytes = get_little<uint64_t>(header + kPayloadLengthAt);
  // One at a time: their sum may overflow.
  if (key_bytes > body.size()) return std::nullopt;
  if (meta_bytes > body.size() - key_bytes) return std::nullopt;
  if (payload_bytes != body.size() - key_bytes - meta_bytes) return std::nullopt;

  const Hash128 stored{get_little<uint64_t>(header + kBodyHashAt + sizeof(uint64_t)),
                       get_little<uint64_t>(header + kBodyHashAt)};
  if (hash128(body) != stored) return std::nullopt;
  return Entry{std::string(body.substr(0, key_bytes)),
               std::string(body.substr(key_bytes, meta_bytes)),
               std::string(body.substr(key_bytes + meta_bytes))};
}

}  // namespace liger
