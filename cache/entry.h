// One entry as the bytes of one file. The layout is in FORMAT.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/hash.h"

namespace liger {

enum class EntryKind : uint8_t {
  artifact,  // a/: compiled kernels, written once
  tune,      // t/: measured times, replaced as they grow
};

// How an entry is called on disk, on a server and by people: `a/<32 hex>` or `t/<32 hex>`.
std::string_view folder_of(EntryKind kind);
std::string entry_name(EntryKind kind, const Hash128& key_hash);

struct Entry {
  std::string key_bytes;  // Key::bytes()
  std::string meta;       // small text, `name=value` lines
  std::string payload;
};

// The value of `name` in an entry's meta; empty if it has none.
std::string_view meta_value(std::string_view meta, std::string_view name);

std::string encode_entry(std::string_view key_bytes, std::string_view meta,
                         std::string_view payload);

// Nothing unless every byte is as it was written. Safe for any input.
std::optional<Entry> decode_entry(std::string_view bytes);

}  // namespace liger
