#include "base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/text.h"

namespace liger {

std::string Hash128::hex() const { return fmt::format("{:016x}{:016x}", high, low); }

Hash128 hash128(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

std::string fingerprint(std::string_view bytes) {
  const XXH128_hash_t other = XXH3_128bits_withSeed(bytes.data(), bytes.size(), 0x6c69676572);
  return fmt::format("{}-{}-{}", bytes.size(), hash128(bytes).hex(),
                     Hash128{other.high64, other.low64}.hex());
}

uint64_t hash64(const void* bytes, size_t size_bytes) { return XXH3_64bits(bytes, size_bytes); }

}  // namespace liger
