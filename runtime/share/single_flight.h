// Values made once in a process however many threads ask.
#pragma once

#include <chrono>
#include <future>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "base/hash.h"

namespace liger {

// Thread safe. Owned by the state of a process (base/process_state.h), so a forked child waits for
// no flight of its parent. Raises only what `make` does; `make` runs without a lock and may get any
// key but its own.
template <typename Value>
class SingleFlight {
 public:
  // The value if it is there; never waits for one in the making.
  std::optional<Value> ready(const Hash128& key) {
    const std::lock_guard lock(mutex_);
    const auto found = flights_.find(key);
    if (found == flights_.end() ||
        found->second.wait_for(std::chrono::seconds(0)) != std::future_status::ready)
      return std::nullopt;
    return found->second.get();
  }

  // The value that is there, that another thread is making, or that `make` gives. What `make`
  // throws reaches all who wait and is then forgotten, so that the next call tries again.
  template <typename Make>
  Value get(const Hash128& key, Make make) {
    std::promise<Value> promise;
    {
      std::unique_lock lock(mutex_);
      const auto [flight, is_new] = flights_.try_emplace(key);
      if (!is_new) {
        const std::shared_future<Value> future = flight->second;
        lock.unlock();
        return future.get();
      }
      flight->second = promise.get_future().share();
    }
    try {
      Value value = make();
      promise.set_value(value);
      return value;
    } catch (...) {
      forget(key);
      promise.set_exception(std::current_exception());
      throw;
    }
  }

  void forget(const Hash128& key) {
    const std::lock_guard lock(mutex_);
    flights_.erase(key);
  }

 private:
  std::mutex mutex_;
  std::unordered_map<Hash128, std::shared_future<Value>, Hash128Hasher> flights_;
};

}  // namespace liger
