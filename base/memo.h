// Values that bytes decide, remembered for many readers.
#pragma once

#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/hash.h"

namespace liger {

// Thread safe; readers do not wait for each other. When it is full it forgets everything.
template <typename Value>
class Memo {
 public:
  explicit Memo(size_t most) : most_(most) {}

  std::optional<Value> find(std::string_view key) const {
    const std::shared_lock lock(mutex_);
    const auto found = values_.find(key);
    return found == values_.end() ? std::nullopt : std::optional<Value>(found->second);
  }

  // The last one put for a key stands.
  void put(std::string key, Value value) {
    const std::lock_guard lock(mutex_);
    if (values_.size() >= most_) values_.clear();
    values_.insert_or_assign(std::move(key), std::move(value));
  }

 private:
  struct Hasher {
    using is_transparent = void;
    size_t operator()(std::string_view key) const { return hash64(key.data(), key.size()); }
  };

  const size_t most_;
  mutable std::shared_mutex mutex_;
  std::unordered_map<std::string, Value, Hasher, std::equal_to<>> values_;
};

}  // namespace liger
