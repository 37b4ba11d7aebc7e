// How often a test repeats itself: few times by default, more where a variable asks for it.
#pragma once

#include <cstdlib>

namespace liger {

inline int repeats(const char* variable, int by_default) {
  const char* asked = std::getenv(variable);
  return asked == nullptr ? by_default : std::atoi(asked);
}

}  // namespace liger
