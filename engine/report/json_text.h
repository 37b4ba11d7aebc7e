// JSON as text. Names, errors and what others wrote may hold any bytes: those that are no UTF-8
// become U+FFFD, because a command must not fail over them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace liger {

inline std::string text_of(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace liger
