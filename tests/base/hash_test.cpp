#include "base/hash.h"

#include <gtest/gtest.h>

namespace liger {
namespace {

// Values of the reference implementation: what is on disk must mean the same everywhere.
TEST(Hash, is_xxh3) {
  EXPECT_EQ(hash128("").hex(), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hash64("", 0), 0x2d06800538d394c2u);
}

TEST(Hash, hex_keeps_leading_zeros) {
  EXPECT_EQ((Hash128{0x1, 0x2}).hex(), "00000000000000010000000000000002");
}

TEST(Hash, every_bit_counts) {
  const std::string bytes(300, 'x');
  const Hash128 before = hash128(bytes);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(hash128(flipped) == before);
    EXPECT_NE(hash64(flipped.data(), flipped.size()), hash64(bytes.data(), bytes.size()));
  }
}

TEST(Hash, bytes_after_a_zero_count) {
  EXPECT_FALSE(hash128(std::string_view("a\0b", 3)) == hash128(std::string_view("a\0c", 3)));
}

TEST(Hash, fingerprint_has_the_length_and_two_hashes_that_differ) {
  const std::string text = fingerprint("kernel");
  EXPECT_EQ(text.substr(0, 2), "6-");
  EXPECT_EQ(text.substr(2, 32), hash128("kernel").hex());
  EXPECT_NE(text.substr(35), hash128("kernel").hex());
  EXPECT_EQ(text.size(), 2u + 32 + 1 + 32);
  EXPECT_NE(fingerprint("kernel").substr(35), fingerprint("Kernel").substr(35));
}

}  // namespace
}  // namespace liger
