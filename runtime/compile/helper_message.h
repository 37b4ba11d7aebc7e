// What liger_jit and its helper processes say to each other: a list of texts, each with its length.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace liger {

inline std::string encoded(const std::vector<std::string>& texts) {
  std::string bytes;
  for (const std::string& text : texts) {
    const uint64_t size_bytes = text.size();
    bytes.append(reinterpret_cast<const char*>(&size_bytes), sizeof(size_bytes));
    bytes += text;
  }
  return bytes;
}

// Empty if the bytes are not such a list.
inline std::optional<std::vector<std::string>> decoded(std::string_view bytes) {
  std::vector<std::string> texts;
  while (!bytes.empty()) {
    uint64_t size_bytes = 0;
    if (bytes.size() < sizeof(size_bytes)) return std::nullopt;
    std::memcpy(&size_bytes, bytes.data(), sizeof(size_bytes));
    bytes.remove_prefix(sizeof(size_bytes));
    if (bytes.size() < size_bytes) return std::nullopt;
    texts.emplace_back(bytes.substr(0, size_bytes));
    bytes.remove_prefix(size_bytes);
  }
  return texts;
}

}  // namespace liger
