// Numbers as the cache writes them: least significant byte first on every machine.
#pragma once

#include <cstddef>

namespace liger {

template <typename Number>
void put_little(char* into, Number number) {
  for (size_t i = 0; i < sizeof number; ++i) into[i] = static_cast<char>(number >> (8 * i));
}

template <typename Number>
Number get_little(const char* from) {
  Number number = 0;
  for (size_t i = 0; i < sizeof number; ++i) {
    number |= static_cast<Number>(static_cast<unsigned char>(from[i])) << (8 * i);
  }
  return number;
}

}  // namespace liger
