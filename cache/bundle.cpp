#include "cache/bundle.h"

#include <zstd.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/text.h"
#include "cache/bundle_format.h"
#include "cache/entry_format.h"
#include "cache/little_endian.h"

namespace liger {
namespace {

template <typename Number>
Number number_at(std::string_view bytes, size_t at) {
  return get_little<Number>(bytes.data() + at);
}

// Most significant first: then the order of bytes is that of the file names.
void put_hash(char* into, const Hash128& hash) {
  for (size_t i = 0; i < 8; ++i) {
    into[i] = static_cast<char>(hash.high >> (56 - 8 * i));
    into[8 + i] = static_cast<char>(hash.low >> (56 - 8 * i));
  }
}

Hash128 get_hash(const char* from) {
  Hash128 hash;
  for (size_t i = 0; i < 8; ++i) {
    hash.high = hash.high << 8 | static_cast<unsigned char>(from[i]);
    hash.low = hash.low << 8 | static_cast<unsigned char>(from[8 + i]);
  }
  return hash;
}

bool before(const BundleRecord& left, const BundleRecord& right) {
  if (left.kind != right.kind) return left.kind < right.kind;
  if (left.key_hash.high != right.key_hash.high) return left.key_hash.high < right.key_hash.high;
  return left.key_hash.low < right.key_hash.low;
}

std::string name_of(const BundleRecord& record) { return entry_name(record.kind, record.key_hash); }

BundleIndex refused(std::string problem) {
  BundleIndex index;
  index.problem = std::move(problem);
  return index;
}

std::string compressed(std::string_view bytes) {
  const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(),
                                                                     &ZSTD_freeCCtx);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, compression_level);
  std::string frame(ZSTD_compressBound(bytes.size()), '\0');
  const size_t size =
      ZSTD_compress2(context.get(), frame.data(), frame.size(), bytes.data(), bytes.size());
  if (ZSTD_isError(size)) {
    throw Error(ErrorKind::unsupported, fmt::format("zstd: {}", ZSTD_getErrorName(size)));
  }
  frame.resize(size);
  return frame;
}

// Empty, or what is wrong with the record.
std::string read_record(std::string_view bytes, uint64_t frame_at, BundleRecord& record) {
  const auto kind = static_cast<uint8_t>(bytes[kind_at]);
  if (kind > static_cast<uint8_t>(EntryKind::tune)) return fmt::format("it names a kind {}", kind);
  record.kind = static_cast<EntryKind>(kind);
  record.key_hash = get_hash(bytes.data() + key_hash_at);
  record.frame_at = frame_at;
  record.frame_bytes = number_at<uint64_t>(bytes, frame_length_at);
  record.entry_bytes = number_at<uint64_t>(bytes, entry_length_at);
  std::copy_n(bytes.data() + frame_sha256_at, record.frame_sha256.size(),
              reinterpret_cast<char*>(record.frame_sha256.data()));
  if (record.entry_bytes < header_bytes || record.entry_bytes > most_entry_bytes) {
    return fmt::format("{} claims {} bytes; an entry has {} to {}", name_of(record),
                       record.entry_bytes, header_bytes, most_entry_bytes);
  }
  if (record.entry_bytes / most_ratio > record.frame_bytes) {
    return fmt::format("{} claims {} bytes from {}", name_of(record), record.entry_bytes,
                       record.frame_bytes);
  }
  return {};
}

}  // namespace

const BundleRecord* BundleIndex::find(EntryKind kind, const Hash128& key_hash) const {
  BundleRecord asked;
  asked.kind = kind;
  asked.key_hash = key_hash;
  const auto found = std::lower_bound(records.begin(), records.end(), asked, before);
  return found == records.end() || before(asked, *found) ? nullptr : &*found;
}

std::optional<uint64_t> bundle_head_bytes(std::string_view header, uint64_t file_bytes) {
  if (header.size() < bundle_header_bytes || file_bytes < bundle_header_bytes) return std::nullopt;
  const uint64_t count = number_at<uint64_t>(header, record_count_at);
  const uint64_t provenance_bytes = number_at<uint64_t>(header, provenance_length_at);
  // By division and one at a time: products and sums may overflow.
  const uint64_t rest = file_bytes - bundle_header_bytes;
  if (provenance_bytes > std::min(rest, most_provenance_bytes)) return std::nullopt;
  if (count > (rest - provenance_bytes) / record_bytes) return std::nullopt;
  return bundle_header_bytes + count * record_bytes + provenance_bytes;
}

BundleIndex parse_bundle_head(std::string_view head, uint64_t file_bytes) {
  if (head.substr(0, bundle_magic.size()) != bundle_magic) {
    return refused("it is no bundle: it does not start with " + std::string(bundle_magic));
  }
  if (head.size() < bundle_header_bytes) return refused("its header is cut off");
  const auto schema = number_at<uint32_t>(head, schema_at);
  if (schema != bundle_schema) {
    return refused(fmt::format("it has schema {} and this version of liger_jit reads {}", schema,
                               bundle_schema));
  }
  if (number_at<uint32_t>(head, bundle_header_length_at) != bundle_header_bytes) {
    return refused("the length of its header is wrong");
  }
  if (file_bytes > most_bundle_bytes) {
    return refused(
        fmt::format("it has {} bytes; at most {} are read", file_bytes, most_bundle_bytes));
  }
  if (number_at<uint64_t>(head, file_length_at) != file_bytes) {
    return refused(fmt::format("it has {} bytes and says {}: cut off, or something was added",
                               file_bytes, number_at<uint64_t>(head, file_length_at)));
  }
  if (bundle_head_bytes(head, file_bytes) != head.size()) {
    return refused("its index does not fit into the file");
  }
  const std::string_view body = head.substr(bundle_header_bytes);
  const Sha256 manifest = sha256(head.substr(0, manifest_at), body);
  if (head.substr(manifest_at, manifest.size()) !=
      std::string_view(reinterpret_cast<const char*>(manifest.data()), manifest.size())) {
    return refused("the SHA-256 of its index is wrong: the file is damaged");
  }

  BundleIndex index;
  index.manifest = hex_of(manifest);
  const auto count = number_at<uint64_t>(head, record_count_at);
  index.records.resize(count);
  uint64_t frame_at = head.size();
  uint64_t unpacked_bytes = 0;
  for (uint64_t i = 0; i < count; ++i) {
    BundleRecord& record = index.records[i];
    std::string problem =
        read_record(body.substr(i * record_bytes, record_bytes), frame_at, record);
    if (!problem.empty()) return refused(std::move(problem));
    if (i > 0 && !before(index.records[i - 1], record)) {
      return refused(fmt::format("its index is not sorted, or {} is there twice", name_of(record)));
    }
    if (record.frame_bytes > file_bytes - frame_at) {
      return refused(name_of(record) + " reaches beyond the end of the file");
    }
    frame_at += record.frame_bytes;
    // Of at most 2^26 each: the sum is refused before it overflows.
    unpacked_bytes += record.entry_bytes;
    if (unpacked_bytes > most_unpacked_bytes) {
      return refused(fmt::format("its entries claim more than {} bytes", most_unpacked_bytes));
    }
  }
  if (frame_at != file_bytes) {
    return refused(fmt::format("{} bytes belong to no entry", file_bytes - frame_at));
  }
  index.provenance = body.substr(count * record_bytes);
  return index;
}

std::optional<Entry> unpack_entry(const BundleRecord& record, std::string_view frame, bool deep) {
  if (deep && sha256(frame) != record.frame_sha256) return std::nullopt;
  // Exactly one frame that says its size itself: a second one, or one that is skipped, is not ours.
  if (ZSTD_getFrameContentSize(frame.data(), frame.size()) != record.entry_bytes ||
      ZSTD_findFrameCompressedSize(frame.data(), frame.size()) != frame.size()) {
    return std::nullopt;
  }
  std::string bytes(record.entry_bytes, '\0');
  const size_t size = ZSTD_decompress(bytes.data(), bytes.size(), frame.data(), frame.size());
  if (ZSTD_isError(size) || size != bytes.size()) return std::nullopt;
  std::optional<Entry> entry = decode_entry(bytes);
  if (!entry || hash128(entry->key_bytes) != record.key_hash) return std::nullopt;
  return entry;
}

BundleIndex parse_bundle(std::string_view bytes) {
  const auto head_bytes =
      bundle_head_bytes(bytes.substr(0, bundle_header_bytes), bytes.size()).value_or(bytes.size());
  BundleIndex index = parse_bundle_head(bytes.substr(0, head_bytes), bytes.size());
  for (const BundleRecord& record : index.records) {
    if (!unpack_entry(record, bytes.substr(record.frame_at, record.frame_bytes), true)) {
      return refused(name_of(record) + " is damaged, or is not what the index says");
    }
  }
  return index;
}

std::string encode_bundle(const std::vector<BundledEntry>& entries, std::string_view provenance) {
  struct Packed {
    BundleRecord record;
    std::string frame;
  };
  std::vector<Packed> packed;
  for (const BundledEntry& one : entries) {
    const std::string bytes = encode_entry(one.entry.key_bytes, one.entry.meta, one.entry.payload);
    Packed& made = packed.emplace_back();
    made.frame = compressed(bytes);
    made.record = {
        one.kind,          hash128(one.entry.key_bytes), 0, made.frame.size(), bytes.size(),
        sha256(made.frame)};
  }
  std::sort(packed.begin(), packed.end(), [](const Packed& left, const Packed& right) {
    return before(left.record, right.record);
  });

  std::string bytes(bundle_header_bytes + packed.size() * record_bytes, '\0');
  bytes += provenance;
  for (size_t i = 0; i < packed.size(); ++i) {
    char* const into = bytes.data() + bundle_header_bytes + i * record_bytes;
    const BundleRecord& record = packed[i].record;
    into[kind_at] = static_cast<char>(record.kind);
    put_hash(into + key_hash_at, record.key_hash);
    put_little(into + frame_length_at, record.frame_bytes);
    put_little(into + entry_length_at, record.entry_bytes);
    std::copy(record.frame_sha256.begin(), record.frame_sha256.end(),
              reinterpret_cast<uint8_t*>(into) + frame_sha256_at);
  }
  const size_t head_bytes = bytes.size();
  uint64_t file_bytes = head_bytes;
  for (const Packed& one : packed) file_bytes += one.frame.size();

  char* const header = bytes.data();
  bundle_magic.copy(header, bundle_magic.size());
  put_little(header + schema_at, bundle_schema);
  put_little(header + bundle_header_length_at, static_cast<uint32_t>(bundle_header_bytes));
  put_little(header + record_count_at, uint64_t{packed.size()});
  put_little(header + provenance_length_at, uint64_t{provenance.size()});
  put_little(header + file_length_at, file_bytes);
  const std::string_view head = bytes;
  const Sha256 manifest = sha256(head.substr(0, manifest_at), head.substr(bundle_header_bytes));
  std::copy(manifest.begin(), manifest.end(), reinterpret_cast<uint8_t*>(header) + manifest_at);

  // What this version would refuse must not be written by it.
  const BundleIndex index = parse_bundle_head(bytes, file_bytes);
  if (!index.ok()) throw Error(ErrorKind::invalid_argument, "no bundle was made: " + index.problem);
  bytes.reserve(file_bytes);
  for (const Packed& one : packed) bytes += one.frame;
  return bytes;
}

}  // namespace liger
