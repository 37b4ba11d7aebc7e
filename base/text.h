// fmt, for .cpp files of the core only: torch's include folder carries another fmt, and the two
// must not meet in one translation unit (tests/layers_test.py holds that).
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <string_view>

namespace liger {

std::string lower(std::string_view text);
std::string replace_all(std::string text, std::string_view from, std::string_view to);

}  // namespace liger
