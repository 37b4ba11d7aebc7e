// SHA-256 of bytes, for what people pass on to each other. What only guards against accidents takes
// hash.h, which is thirty times as fast.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace liger {

using Sha256 = std::array<uint8_t, 32>;

// Of all parts, one after the other.
Sha256 sha256(std::string_view first, std::string_view second = {});

std::string hex_of(const Sha256& digest);  // 64 lower-case digits

}  // namespace liger
