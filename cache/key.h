// The name of an entry: a list of named fields and its XXH3-128.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/hash.h"

namespace liger {

// Fields are length-prefixed, so no two lists of fields share their bytes. The order counts.
class Key {
 public:
  Key& add(std::string_view name, std::string_view value);
  const std::string& bytes() const { return bytes_; }  // stored in the entry, compared on read
  Hash128 hash() const;

  // The fields back, for people. Empty if the bytes are malformed.
  static std::vector<std::pair<std::string, std::string>> fields_of(std::string_view bytes);

 private:
  std::string bytes_;
};

}  // namespace liger
