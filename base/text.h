// Text for .cpp files of the core. fmt itself is compiled in text.cpp alone: half of the core's
// build would go into it. Torch's include folder carries another fmt, and the two must not meet in
// one translation unit (tests/layers_test.py holds that).
#pragma once

#if __has_include(<fmt/base.h>)  // fmt 11: what is declared here and no more
#include <fmt/base.h>
#else
#include <fmt/core.h>
#endif

#include <string>
#include <string_view>

namespace liger {
namespace fmt {

std::string written(::fmt::string_view pattern, ::fmt::format_args values);

// `pattern` is checked against the types when this is compiled.
template <typename... Types>
std::string format(::fmt::format_string<Types...> pattern, Types&&... values) {
  return written(pattern, ::fmt::make_format_args(values...));
}

// The parts, each written as `pattern` says.
template <typename Parts>
std::string join(const Parts& parts, std::string_view between, std::string_view pattern = "{}") {
  std::string joined;
  bool first = true;
  for (const auto& part : parts) {
    if (!first) joined += between;
    first = false;
    joined += written({pattern.data(), pattern.size()}, ::fmt::make_format_args(part));
  }
  return joined;
}

}  // namespace fmt

std::string lower(std::string_view text);
std::string replace_all(std::string text, std::string_view from, std::string_view to);

}  // namespace liger
