// XXH3 of bytes: 128 bits for what is kept, 64 for tables in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace liger {

struct Hash128 {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const Hash128&) const = default;
  std::string hex() const;  // 32 lower-case digits, the same on every machine
};

Hash128 hash128(std::string_view bytes);

// The length and two hashes of different seeds, as text: stands for bytes too long to be kept.
std::string fingerprint(std::string_view bytes);
uint64_t hash64(const void* bytes, size_t size_bytes);

struct Hash128Hasher {
  size_t operator()(const Hash128& hash) const { return static_cast<size_t>(hash.low); }
};

}  // namespace liger
