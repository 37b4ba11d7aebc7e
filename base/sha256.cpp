#include "base/sha256.h"

#include <sha2.h>

#include "base/text.h"

namespace liger {

Sha256 sha256(std::string_view first, std::string_view second) {
  SHA2_CTX state;
  Sha256 digest;
  SHA256Init(&state);
  for (const std::string_view part : {first, second}) {
    SHA256Update(&state, reinterpret_cast<const uint8_t*>(part.data()), part.size());
  }
  SHA256Final(digest.data(), &state);
  return digest;
}

std::string hex_of(const Sha256& digest) { return fmt::join(digest, "", "{:02x}"); }

}  // namespace liger
