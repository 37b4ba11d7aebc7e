// Any bytes to what reads a bundle, which people pass on to each other.
//
// Random bytes never get past a SHA-256, so each input is also sealed as a bundle whose hashes are
// right, and cut into entries of a bundle that is sound until one of its bytes is changed.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/sha256.h"
#include "cache/bundle.h"
#include "cache/bundle_format.h"
#include "cache/entry_format.h"
#include "cache/key.h"
#include "cache/little_endian.h"

namespace {

using namespace liger;

void check(bool holds) {
  if (!holds) std::abort();
}

// What is taken can be found and unpacked, each entry under its own key.
void parse(std::string_view bytes) {
  const BundleIndex index = parse_bundle(bytes);
  if (!index.ok()) return;
  for (const BundleRecord& record : index.records) {
    check(index.find(record.kind, record.key_hash) == &record);
    const auto entry =
        unpack_entry(record, bytes.substr(record.frame_at, record.frame_bytes), true);
    check(entry && hash128(entry->key_bytes) == record.key_hash);
  }
}

void put_sha256(char* into, const Sha256& digest) {
  for (const uint8_t byte : digest) *into++ = static_cast<char>(byte);
}

// The input as records, frames and provenance of a file whose lengths and hashes are right.
void parse_sealed(std::string_view input) {
  if (input.empty()) return;
  std::string bytes(bundle_header_bytes, '\0');
  const size_t most = (input.size() - 1) / record_bytes;
  const uint64_t count = most == 0 ? 0 : static_cast<uint8_t>(input[0]) % (most + 1);
  bytes += input.substr(1);
  const size_t frames_at = bundle_header_bytes + count * record_bytes;
  size_t frame_at = frames_at;
  for (uint64_t i = 0; i < count; ++i) {
    char* const record = bytes.data() + bundle_header_bytes + i * record_bytes;
    const size_t rest = bytes.size() - frame_at;
    // The last frame ends with the file; the others where the input says.
    const uint64_t wanted = get_little<uint64_t>(record + frame_length_at);
    const size_t frame_bytes = i + 1 == count ? rest : wanted % (rest + 1);
    put_little(record + frame_length_at, uint64_t{frame_bytes});
    put_sha256(record + frame_sha256_at,
               sha256(std::string_view(bytes).substr(frame_at, frame_bytes)));
    frame_at += frame_bytes;
  }
  bundle_magic.copy(bytes.data(), bundle_magic.size());
  put_little(bytes.data() + schema_at, bundle_schema);
  put_little(bytes.data() + bundle_header_length_at, static_cast<uint32_t>(bundle_header_bytes));
  put_little(bytes.data() + record_count_at, count);
  put_little(bytes.data() + provenance_length_at, uint64_t{0});
  put_little(bytes.data() + file_length_at, uint64_t{bytes.size()});
  const std::string_view all = bytes;
  put_sha256(bytes.data() + manifest_at,
             sha256(all.substr(0, manifest_at),
                    all.substr(bundle_header_bytes, frames_at - bundle_header_bytes)));
  parse(bytes);
}

// A sound bundle is taken whole, and not at all with one byte changed.
void change_one_byte(std::string_view input) {
  if (input.size() < 4) return;
  const size_t half = input.size() / 2;
  std::vector<BundledEntry> entries;
  for (const std::string_view part : {input.substr(0, half), input.substr(half)}) {
    const Key key = Key().add("part", fingerprint(part)).add("at", std::to_string(entries.size()));
    entries.push_back({EntryKind::artifact, {key.bytes(), "symbol=run\n", std::string(part)}});
  }
  std::string bytes = encode_bundle(entries, "liger_jit=fuzz\n");
  const BundleIndex index = parse_bundle(bytes);
  check(index.ok() && index.records.size() == entries.size());
  const uint16_t at = get_little<uint16_t>(input.data());
  bytes[at % bytes.size()] ^= static_cast<char>(input[2] | 1);
  check(!parse_bundle(bytes).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  parse(input);
  parse_sealed(input);
  change_one_byte(input);
  return 0;
}
