#include "cache/bundle.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include <algorithm>
#include <memory>
#include <random>

#include "base/error.h"
#include "cache/bundle_format.h"
#include "cache/entry_format.h"
#include "cache/key.h"
#include "cache/little_endian.h"

namespace liger {
namespace {

// The worked example of BUNDLE.md, made by another program than this one (Python's hashlib and the
// zstd command). It never changes: a new layout is a new schema.
constexpr std::string_view golden_hex =
    "4c4947455242444c0100000048000000"
    "01000000000000001000000000000000"
    "0c01000000000000bb70747cb33f1fb1"
    "1f6287a797a28e815eac8d58b977fe22"
    "f7237a16b2ff3ec50056c55d16bcf68d"
    "db66d199bad11b6ed173000000000000"
    "008700000000000000a965cdf8cd2814"
    "cb2cddbc6425b85af96553e6f3d69100"
    "94f621b3a46d9268906c696765725f6a"
    "69743d302e312e300a28b52ffd208755"
    "030044054c494745524a495401000000"
    "4036000b060df5856aefba14ead5e5f5"
    "1a87b8fdc527cc14c447f7d53c02006f"
    "700800726d735f6e6f726d7461726765"
    "74736d5f39306173796d626f6c3d7275"
    "6e0a7f454c4600ff08003149e98a7030"
    "88ee1820cb9baf3b6080fb05";

constexpr std::string_view some_provenance = "liger_jit=0.1.0\n";

std::string from_hex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

BundledEntry entry_of(std::string_view name, std::string payload,
                      EntryKind kind = EntryKind::artifact) {
  return {kind, Entry{Key().add("name", name).bytes(), "symbol=run\n", std::move(payload)}};
}

BundledEntry golden_entry() {
  const Key key = Key().add("op", "rms_norm").add("target", "sm_90a");
  return {EntryKind::artifact,
          Entry{key.bytes(), "symbol=run\n", std::string("\x7f\x45\x4c\x46\0\xff", 6)}};
}

std::string sample() {
  std::vector<BundledEntry> entries;
  for (const char* name : {"one", "two", "three", "four"}) {
    entries.push_back(entry_of(name, std::string(300, name[0])));
  }
  entries.push_back(entry_of("one", "threads=128 0.5 0.5 0.01 3\n", EntryKind::tune));
  return encode_bundle(entries, some_provenance);
}

// From memory that ends where the bytes end, so that the address sanitizer sees any read beyond.
std::string problem_of(std::string_view bytes) {
  const std::unique_ptr<char[]> exact(new char[bytes.size()]);
  bytes.copy(exact.get(), bytes.size());
  return parse_bundle({exact.get(), bytes.size()}).problem;
}

// With a manifest that is right again, as who forges a bundle would make it.
std::string sealed(std::string bytes, size_t head_bytes) {
  const std::string_view head = std::string_view(bytes).substr(0, head_bytes);
  const Sha256 manifest = sha256(head.substr(0, manifest_at), head.substr(bundle_header_bytes));
  std::copy(manifest.begin(), manifest.end(),
            reinterpret_cast<uint8_t*>(bytes.data()) + manifest_at);
  return bytes;
}

size_t head_of(std::string_view bytes) { return *bundle_head_bytes(bytes, bytes.size()); }

// The bundle with one number of a record changed and sealed again.
std::string with_field(size_t record, size_t at, uint64_t value) {
  std::string bytes = sample();
  const size_t head_bytes = head_of(bytes);
  put_little(bytes.data() + bundle_header_bytes + record * record_bytes + at, value);
  return sealed(std::move(bytes), head_bytes);
}

bool tells(const std::string& problem, std::string_view word) {
  return problem.find(word) != std::string::npos;
}

TEST(Bundle, golden_bundle_is_read_for_ever) {
  const std::string golden = from_hex(golden_hex);
  const BundleIndex index = parse_bundle(golden);
  ASSERT_EQ(index.problem, "");
  EXPECT_EQ(index.provenance, some_provenance);
  EXPECT_EQ(index.manifest, "bb70747cb33f1fb11f6287a797a28e815eac8d58b977fe22f7237a16b2ff3ec5");
  ASSERT_EQ(index.records.size(), 1u);
  EXPECT_EQ(index.records[0].key_hash.hex(), "56c55d16bcf68ddb66d199bad11b6ed1");
  const auto entry = unpack_entry(index.records[0], std::string_view(golden).substr(153), true);
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->key_bytes, golden_entry().entry.key_bytes);
  EXPECT_EQ(entry->payload, golden_entry().entry.payload);
  // Another zstd may find other frames for the same entry; readers take them all.
  if (ZSTD_versionNumber() / 100 == 105) {
    EXPECT_EQ(encode_bundle({golden_entry()}, some_provenance), golden);
  }
}

TEST(Bundle, same_entries_in_any_order_give_the_same_bytes) {
  std::vector<BundledEntry> entries;
  for (int i = 0; i < 40; ++i) {
    const EntryKind kind = i % 3 == 0 ? EntryKind::tune : EntryKind::artifact;
    entries.push_back(entry_of(std::to_string(i), std::string(i * 7, 'x'), kind));
  }
  const std::string bytes = encode_bundle(entries, some_provenance);
  std::shuffle(entries.begin(), entries.end(), std::mt19937(3));
  EXPECT_EQ(encode_bundle(entries, some_provenance), bytes);

  const BundleIndex index = parse_bundle(bytes);
  ASSERT_EQ(index.problem, "");
  ASSERT_EQ(index.records.size(), 40u);
  for (const BundledEntry& one : entries) {
    const BundleRecord* record = index.find(one.kind, hash128(one.entry.key_bytes));
    ASSERT_NE(record, nullptr);
    const auto entry = unpack_entry(
        *record, std::string_view(bytes).substr(record->frame_at, record->frame_bytes), false);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->payload, one.entry.payload);
  }
  EXPECT_EQ(index.find(EntryKind::artifact, hash128("absent")), nullptr);
}

TEST(Bundle, empty_bundle_is_sound) {
  const BundleIndex index = parse_bundle(encode_bundle({}, ""));
  EXPECT_EQ(index.problem, "");
  EXPECT_TRUE(index.records.empty());
  EXPECT_EQ(index.find(EntryKind::artifact, {}), nullptr);
}

TEST(Bundle, every_flipped_bit_and_every_length_is_refused) {
  const std::string good = sample();
  ASSERT_EQ(problem_of(good), "");
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_NE(problem_of(bad), "") << "bit " << bit;
  }
  for (size_t size = 0; size < good.size(); ++size) {
    ASSERT_NE(problem_of(good.substr(0, size)), "") << size << " bytes";
  }
}

TEST(Bundle, random_bytes_are_refused) {
  std::mt19937_64 random(11);
  const std::string good = sample();
  for (int round = 0; round < 2000; ++round) {
    std::string bytes = good.substr(0, random() % (good.size() + 1));
    for (char& byte : bytes) byte = static_cast<char>(random());
    bundle_magic.copy(bytes.data(), std::min(bytes.size(), bundle_magic.size()));
    ASSERT_NE(problem_of(bytes), "");
  }
}

TEST(Bundle, what_is_added_to_it_is_refused) {
  const std::string good = sample();
  EXPECT_TRUE(tells(problem_of(good + '\0'), "something was added"));
  // Even where the header owns up to it.
  std::string longer = good + "more";
  put_little(longer.data() + file_length_at, uint64_t{longer.size()});
  EXPECT_TRUE(tells(problem_of(sealed(longer, head_of(good))), "4 bytes belong to no entry"));
}

TEST(Bundle, lengths_that_lie_are_refused_before_memory_is_taken) {
  for (const uint64_t huge : {uint64_t{1} << 27, uint64_t{1} << 63, ~uint64_t{0}}) {
    EXPECT_TRUE(tells(problem_of(with_field(0, entry_length_at, huge)), "an entry has")) << huge;
    EXPECT_TRUE(tells(problem_of(with_field(1, frame_length_at, huge)), "beyond the end")) << huge;
    for (const size_t at : {record_count_at, provenance_length_at}) {
      std::string bytes = sample();
      put_little(bytes.data() + at, huge);
      EXPECT_TRUE(tells(problem_of(bytes), "does not fit")) << huge;
    }
  }
  EXPECT_TRUE(tells(problem_of(with_field(0, entry_length_at, 3)), "an entry has"));
  EXPECT_TRUE(tells(problem_of(with_field(0, entry_length_at, most_entry_bytes)), "claims"));
  // A little too long or short: what is unpacked tells.
  const BundleIndex index = parse_bundle(sample());
  for (const int off : {-1, 1}) {
    const uint64_t length = index.records[2].entry_bytes + off;
    EXPECT_TRUE(
        tells(problem_of(with_field(2, entry_length_at, length)), "not what the index says"));
  }
}

TEST(Bundle, file_longer_than_the_limit_is_refused_by_its_head) {
  std::string bytes = encode_bundle({}, "");
  put_little(bytes.data() + file_length_at, most_bundle_bytes + 1);
  EXPECT_TRUE(tells(parse_bundle_head(bytes, most_bundle_bytes + 1).problem, "at most"));
}

TEST(Bundle, index_out_of_order_or_with_one_twice_is_refused) {
  const std::string good = sample();
  const size_t head_bytes = head_of(good);
  std::string swapped = good;
  char* const records = swapped.data() + bundle_header_bytes;
  std::swap_ranges(records, records + record_bytes, records + record_bytes);
  EXPECT_TRUE(tells(problem_of(sealed(swapped, head_bytes)), "not sorted"));
  std::string twice = good;
  std::copy_n(twice.data() + bundle_header_bytes, record_bytes,
              twice.data() + bundle_header_bytes + record_bytes);
  EXPECT_TRUE(tells(problem_of(sealed(twice, head_bytes)), "twice"));
  std::string kind = good;
  kind[bundle_header_bytes + kind_at] = 7;
  EXPECT_TRUE(tells(problem_of(sealed(kind, head_bytes)), "kind 7"));
  EXPECT_THROW(encode_bundle({golden_entry(), golden_entry()}, ""), Error);
}

TEST(Bundle, entry_under_the_name_of_another_is_refused) {
  std::string bytes = sample();
  // The first name, one digit on: still sorted, and no path can be made of it but its own.
  char& last = bytes[bundle_header_bytes + key_hash_at + 15];
  last = static_cast<char>(last ^ 1);
  EXPECT_TRUE(tells(problem_of(sealed(bytes, head_of(bytes))), "not what the index says"));
}

TEST(Bundle, wrong_sha256_of_a_frame_is_refused) {
  EXPECT_TRUE(tells(problem_of(with_field(1, frame_sha256_at, 42)), "not what the index says"));
}

// A bundle of one record over this frame, sealed.
std::string around(const std::string& frame, uint64_t entry_bytes) {
  std::string bytes = encode_bundle({golden_entry()}, "");
  const size_t head_bytes = head_of(bytes);
  bytes.resize(head_bytes);
  bytes += frame;
  char* const record = bytes.data() + bundle_header_bytes;
  put_little(record + frame_length_at, uint64_t{frame.size()});
  put_little(record + entry_length_at, entry_bytes);
  const Sha256 digest = sha256(frame);
  std::copy(digest.begin(), digest.end(), reinterpret_cast<uint8_t*>(record) + frame_sha256_at);
  put_little(bytes.data() + file_length_at, uint64_t{bytes.size()});
  return sealed(std::move(bytes), head_bytes);
}

std::string zstd_frame(std::string_view bytes) {
  std::string frame(ZSTD_compressBound(bytes.size()), '\0');
  frame.resize(ZSTD_compress(frame.data(), frame.size(), bytes.data(), bytes.size(), 3));
  return frame;
}

TEST(Bundle, frames_that_are_more_or_less_than_one_entry_are_refused) {
  const Entry golden = golden_entry().entry;
  const std::string entry = encode_entry(golden.key_bytes, golden.meta, golden.payload);
  const std::string frame = zstd_frame(entry);
  EXPECT_EQ(problem_of(around(frame, entry.size())), "") << "a frame of another level";
  EXPECT_NE(problem_of(around(frame + frame, entry.size())), "");
  EXPECT_NE(problem_of(around(frame + "x", entry.size())), "");
  const std::string skipped("\x50\x2a\x4d\x18\x04\0\0\0skip", 12);
  EXPECT_NE(problem_of(around(skipped + frame, entry.size())), "");
  EXPECT_NE(problem_of(around(frame + skipped, entry.size())), "");
  EXPECT_NE(problem_of(around(entry, entry.size())), "") << "not compressed";
  const std::string bomb = zstd_frame(std::string(most_entry_bytes, '\0'));
  EXPECT_TRUE(tells(problem_of(around(bomb, most_entry_bytes)), "claims"));
  EXPECT_NE(problem_of(around(bomb, entry.size())), "");
}

TEST(Bundle, entries_that_claim_too_much_together_are_refused_unread) {
  // 70 records of 64 MiB each, over frames that are not even there to be read.
  constexpr uint64_t frame_at = most_entry_bytes / most_ratio;
  constexpr size_t records = 70;
  std::string head = encode_bundle({}, "");
  const uint64_t file_bytes = head.size() + records * (record_bytes + frame_at);
  for (size_t i = 0; i < records; ++i) {
    std::string record(record_bytes, '\0');
    record[key_hash_at] = static_cast<char>(i);
    put_little(record.data() + frame_length_at, frame_at);
    put_little(record.data() + entry_length_at, most_entry_bytes);
    head += record;
  }
  put_little(head.data() + record_count_at, uint64_t{records});
  put_little(head.data() + file_length_at, file_bytes);
  head = sealed(head, head.size());
  EXPECT_TRUE(tells(parse_bundle_head(head, file_bytes).problem, "entries claim more than"));
}

TEST(Bundle, another_schema_is_named) {
  std::string bytes = sample();
  put_little(bytes.data() + schema_at, uint32_t{2});
  EXPECT_TRUE(tells(problem_of(bytes), "schema 2"));
  EXPECT_TRUE(tells(problem_of("LIGERJIT and so on"), "no bundle"));
}

}  // namespace
}  // namespace liger
