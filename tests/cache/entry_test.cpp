#include "cache/entry.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "base/hash.h"
#include "cache/entry_format.h"
#include "cache/key.h"

namespace liger {
namespace {

// The worked example of FORMAT.md, made by another program than this one. It never changes: a new
// layout is a new schema.
constexpr std::string_view golden_hex =
    "4c494745524a49540100000040000000"
    "36000000000000000b00000000000000"
    "06000000000000000df5856aefba14ea"
    "d5e5f51a87b8fdc527cc14c447f7d53c"
    "02000000000000006f70080000000000"
    "0000726d735f6e6f726d060000000000"
    "00007461726765740600000000000000"
    "736d5f39306173796d626f6c3d72756e"
    "0a7f454c4600ff";

Key golden_key() { return Key().add("op", "rms_norm").add("target", "sm_90a"); }
constexpr std::string_view golden_meta = "symbol=run\n";
constexpr std::string_view golden_payload = {"\x7f\x45\x4c\x46\x00\xff", 6};

std::string from_hex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

std::string random_bytes(size_t size_bytes) {
  std::mt19937 random(7);
  std::string bytes(size_bytes, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// From memory that ends where the bytes end, so that the address sanitizer sees any read beyond.
bool verifies(std::string_view bytes) {
  const std::unique_ptr<char[]> exact(new char[bytes.size()]);
  bytes.copy(exact.get(), bytes.size());
  return decode_entry({exact.get(), bytes.size()}).has_value();
}

void flip(std::string& bytes, size_t bit) {
  bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
}

TEST(Entry, golden_entry_is_written_and_read_for_ever) {
  const std::string golden = from_hex(golden_hex);
  EXPECT_EQ(encode_entry(golden_key().bytes(), golden_meta, golden_payload), golden);
  EXPECT_EQ(golden_key().hash().hex(), "56c55d16bcf68ddb66d199bad11b6ed1");
  const auto entry = decode_entry(golden);
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->key_bytes, golden_key().bytes());
  EXPECT_EQ(entry->meta, golden_meta);
  EXPECT_EQ(entry->payload, golden_payload);
}

TEST(Entry, empty_parts_come_back) {
  const auto entry = decode_entry(encode_entry("", "", ""));
  ASSERT_TRUE(entry);
  EXPECT_TRUE(entry->key_bytes.empty() && entry->meta.empty() && entry->payload.empty());
}

TEST(Entry, every_truncation_and_any_tail_is_detected) {
  const std::string bytes = encode_entry(golden_key().bytes(), golden_meta, random_bytes(3000));
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(verifies(std::string_view(bytes).substr(0, size))) << size;
  }
  EXPECT_TRUE(verifies(bytes));
  EXPECT_FALSE(verifies(bytes + '\0'));
}

TEST(Entry, every_flipped_bit_of_header_key_and_meta_is_detected) {
  std::string bytes = encode_entry(golden_key().bytes(), golden_meta, random_bytes(3000));
  const size_t checked_bytes = header_bytes + golden_key().bytes().size() + golden_meta.size();
  for (size_t bit = 0; bit < 8 * checked_bytes; ++bit) {
    flip(bytes, bit);
    EXPECT_FALSE(verifies(bytes)) << bit;
    flip(bytes, bit);
  }
}

TEST(Entry, random_flips_of_the_payload_are_detected) {
  std::string bytes = encode_entry(golden_key().bytes(), golden_meta, random_bytes(8000));
  const size_t first_bit = 8 * (bytes.size() - 8000);
  std::mt19937 random(11);
  for (int i = 0; i < 1000; ++i) {
    const size_t bit = first_bit + random() % (8 * 8000);
    flip(bytes, bit);
    EXPECT_FALSE(verifies(bytes)) << bit;
    flip(bytes, bit);
  }
}

TEST(Entry, border_between_two_parts_cannot_move) {
  std::string bytes = encode_entry("key", "meta", "payload");
  ++bytes[key_length_at];
  --bytes[meta_length_at];
  EXPECT_FALSE(verifies(bytes));
}

TEST(Entry, zeros_noise_and_lengths_that_overflow_do_no_harm) {
  for (size_t size = 0; size < 300; ++size) {
    EXPECT_FALSE(verifies(std::string(size, '\0')));
    EXPECT_FALSE(verifies(std::string(size, '\xff')));
    EXPECT_FALSE(verifies(random_bytes(size)));
  }
  // Lengths whose sum wraps to the right size, under a header that is sealed again.
  std::string bytes = encode_entry("key", "meta", "payload");
  for (const size_t at : {key_length_at, meta_length_at, payload_length_at}) {
    std::string wrong = bytes;
    for (size_t i = 0; i < 8; ++i) wrong[at + i] = '\xff';
    const uint64_t seal = hash64(wrong.data(), header_hash_at);
    for (size_t i = 0; i < 8; ++i) {
      wrong[header_hash_at + i] = static_cast<char>(seal >> (8 * i));
    }
    EXPECT_FALSE(verifies(wrong));
  }
}

TEST(KeyFields, no_two_lists_share_their_bytes) {
  EXPECT_NE(Key().add("ab", "c").bytes(), Key().add("a", "bc").bytes());
  EXPECT_NE(Key().add("a", "b").add("c", "d").bytes(), Key().add("a", "bcd").bytes());
  EXPECT_NE(Key().add("a", "b").add("c", "d").bytes(), Key().add("c", "d").add("a", "b").bytes());
  EXPECT_NE(Key().add("", "").bytes(), Key().bytes());
}

TEST(KeyFields, come_back) {
  const std::string source("line\n\0line", 10);
  using Fields = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(Key::fields_of(Key().add("op", "").add("", source).bytes()),
            (Fields{{"op", ""}, {"", source}}));
}

TEST(KeyFields, malformed_bytes_give_none) {
  const std::string bytes = golden_key().bytes();
  const size_t first_field_bytes = Key().add("op", "rms_norm").bytes().size();
  for (size_t size = 1; size < bytes.size(); ++size) {
    if (size == first_field_bytes) continue;
    EXPECT_TRUE(Key::fields_of(std::string_view(bytes).substr(0, size)).empty()) << size;
  }
  EXPECT_TRUE(Key::fields_of(std::string(40, '\xff')).empty());
}

}  // namespace
}  // namespace liger
