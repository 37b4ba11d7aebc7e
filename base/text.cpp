#define FMT_HEADER_ONLY  // Debian has no static library of it
#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace liger {

std::string fmt::written(::fmt::string_view pattern, ::fmt::format_args values) {
  return ::fmt::vformat(pattern, values);
}

std::string lower(std::string_view text) {
  std::string result(text);
  // Not tolower(): names of ops and targets must not depend on the locale.
  std::transform(result.begin(), result.end(), result.begin(), [](char letter) {
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
  });
  return result;
}

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  if (from.empty()) return text;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

}  // namespace liger
