#include "cache/key.h"

#include <optional>

#include "cache/little_endian.h"

namespace liger {
namespace {

void append(std::string& bytes, std::string_view text) {
  bytes.resize(bytes.size() + sizeof(uint64_t));
  put_little(bytes.data() + bytes.size() - sizeof(uint64_t), uint64_t{text.size()});
  bytes += text;
}

std::optional<std::string> take(std::string_view& bytes) {
  if (bytes.size() < sizeof(uint64_t)) return std::nullopt;
  const uint64_t size = get_little<uint64_t>(bytes.data());
  bytes.remove_prefix(sizeof(uint64_t));
  if (size > bytes.size()) return std::nullopt;
  std::string text(bytes.substr(0, size));
  bytes.remove_prefix(size);
  return text;
}

}  // namespace

Key& Key::add(std::string_view name, std::string_view value) {
  append(bytes_, name);
  append(bytes_, value);
  return *this;
}

Hash128 Key::hash() const { return hash128(bytes_); }

std::vector<std::pair<std::string, std::string>> Key::fields_of(std::string_view bytes) {
  std::vector<std::pair<std::string, std::string>> fields;
  while (!bytes.empty()) {
    std::optional<std::string> name = take(bytes);
    std::optional<std::string> value = name ? take(bytes) : std::nullopt;
    if (!value) return {};
    fields.emplace_back(std::move(*name), std::move(*value));
  }
  return fields;
}

}  // namespace liger
