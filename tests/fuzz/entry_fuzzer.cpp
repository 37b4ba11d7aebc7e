// Any bytes to what reads a file of the cache: the entry, its key's fields, a record of times.
//
// Random bytes never get past a hash, so each input is also dressed up as a whole entry whose parts
// are the input's. A parser of another format is one more file named *_fuzzer.cpp in this folder.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "autotune/record.h"
#include "base/hash.h"
#include "cache/entry.h"
#include "cache/entry_format.h"
#include "cache/key.h"
#include "cache/little_endian.h"

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

// What decodes must be what its own parts encode to: no second spelling of an entry.
void decode(std::string_view bytes) {
  const auto entry = liger::decode_entry(bytes);
  if (entry) check(liger::encode_entry(entry->key_bytes, entry->meta, entry->payload) == bytes);
}

// The input with both hashes made right, so that lengths and borders are all that is wrong with it.
void decode_sealed(std::string_view input) {
  using namespace liger;
  std::string bytes(input);
  if (bytes.size() < header_bytes) return;
  entry_magic.copy(bytes.data() + magic_at, entry_magic.size());
  put_little(bytes.data() + schema_at, entry_schema);
  put_little(bytes.data() + header_length_at, static_cast<uint32_t>(header_bytes));
  const Hash128 body = hash128(std::string_view(bytes).substr(header_bytes));
  put_little(bytes.data() + body_hash_at, body.low);
  put_little(bytes.data() + body_hash_at + sizeof(uint64_t), body.high);
  put_little(bytes.data() + header_hash_at, hash64(bytes.data(), header_hash_at));
  decode(bytes);
}

void decode_fields(std::string_view bytes) {
  liger::Key key;
  const auto fields = liger::Key::fields_of(bytes);
  for (const auto& [name, value] : fields) key.add(name, value);
  check(fields.empty() || key.bytes() == bytes);
}

void decode_record(std::string_view text) {
  const auto record = liger::TuneRecord::decode(text);
  if (!record) return;
  check(liger::TuneRecord::decode(record->encode()).has_value());
  for (const auto& [candidate, timing] : record->timings) check(record->find(candidate) != nullptr);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  decode(input);
  decode_sealed(input);
  decode_fields(input);
  decode_record(input);
  const std::string_view half = input.substr(0, size / 2);
  const auto whole = liger::decode_entry(liger::encode_entry(half, input.substr(size / 2), input));
  check(whole && whole->key_bytes == half && whole->payload == input);
  return 0;
}
