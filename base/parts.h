// Counting pieces.
#pragma once

#include <cstdint>

namespace liger {

// Parts of that size in a whole, of which the last may be short.
constexpr int64_t parts(int64_t whole, int64_t of_part) { return (whole + of_part - 1) / of_part; }

}  // namespace liger
