// Many entries as the bytes of one file. The layout is in BUNDLE.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/sha256.h"
#include "cache/entry.h"

namespace liger {

struct BundleRecord {
  EntryKind kind = EntryKind::artifact;
  Hash128 key_hash;
  uint64_t frame_at = 0;  // in the file
  uint64_t frame_bytes = 0;
  uint64_t entry_bytes = 0;
  Sha256 frame_sha256 = {};
};

struct BundleIndex {
  std::string problem;  // not empty: refused, for this reason, and nothing else here counts
  std::vector<BundleRecord> records;  // sorted by kind and key hash, none twice
  std::string provenance;             // `name=value` lines
  std::string manifest;               // SHA-256 in hexadecimal; names the content of the whole file
  bool ok() const { return problem.empty(); }

  const BundleRecord* find(EntryKind kind, const Hash128& key_hash) const;  // null: not there
};

// The file of these entries, whatever their order: the same entries, of which none may be there
// twice, and the same provenance give the same bytes. Raises Error(invalid_argument) for what no
// reader would take.
struct BundledEntry {
  EntryKind kind = EntryKind::artifact;
  Entry entry;
};
std::string encode_bundle(const std::vector<BundledEntry>& entries, std::string_view provenance);

// Everything verified: header, index and each entry. Safe for any bytes, and never holds more than
// the index and one entry.
BundleIndex parse_bundle(std::string_view bytes);

// The same for what stands before the frames, `head`, of a file of `file_bytes`.
BundleIndex parse_bundle_head(std::string_view head, uint64_t file_bytes);

// How many bytes of a file that starts with `header` stand before its frames; nothing if it cannot
// be a bundle of `file_bytes`.
std::optional<uint64_t> bundle_head_bytes(std::string_view header, uint64_t file_bytes);

// The entry of a frame, if it is whole and its key is the record's. `deep` compares the SHA-256
// first, which takes longer than all the rest.
std::optional<Entry> unpack_entry(const BundleRecord& record, std::string_view frame, bool deep);

}  // namespace liger
