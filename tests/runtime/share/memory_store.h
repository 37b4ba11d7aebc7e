// A process group's store in memory, and groups of two ranks in one process that share it.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "runtime/share/group.h"

namespace liger {

// What all ranks of a test share.
struct MemoryTable {
  std::mutex mutex;
  std::map<std::string, std::string> values;
  std::atomic<bool> hangs{false};
  std::atomic<bool> raises{false};
  std::atomic<int> delay_ms{0};  // of each answer

  void change(const std::function<void(std::string&)>& how) {
    const std::lock_guard lock(mutex);
    for (auto& [name, value] : values) how(value);
  }
};

class MemoryStore final : public GroupStore {
 public:
  explicit MemoryStore(std::shared_ptr<MemoryTable> table) : table_(std::move(table)) {}

  std::optional<std::string> get(const std::string& name) override {
    const auto lock = locked();
    const auto found = table_->values.find(name);
    return found == table_->values.end() ? std::nullopt : std::optional(found->second);
  }
  void set(const std::string& name, const std::string& value) override {
    const auto lock = locked();
    table_->values[name] = value;
  }
  std::string propose(const std::string& name, const std::string& value) override {
    const auto lock = locked();
    return table_->values.emplace(name, value).first->second;
  }

 private:
  std::unique_lock<std::mutex> locked() {
    std::this_thread::sleep_for(std::chrono::milliseconds(table_->delay_ms));
    while (table_->hangs) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (table_->raises) throw std::runtime_error("connection reset by peer");
    return std::unique_lock(table_->mutex);
  }
  const std::shared_ptr<MemoryTable> table_;
};

inline std::unique_ptr<Group> rank_of_two(int number, std::shared_ptr<MemoryTable> table) {
  const auto open = [table]() -> std::unique_ptr<GroupStore> {
    return std::make_unique<MemoryStore>(table);
  };
  const std::chrono::milliseconds pause(300);
  return std::make_unique<Group>(number, 2, open, BackOff(pause, pause));
}

// Ranks 0 and 1; Group::current() is the second until the end of the scope.
struct TwoRanks {
  TwoRanks() {
    set_group_source([this] {
      asked += 1;
      return current;
    });
  }
  ~TwoRanks() { set_group_source({}); }
  TwoRanks(const TwoRanks&) = delete;

  std::atomic<int> asked{0};
  const std::shared_ptr<MemoryTable> table = std::make_shared<MemoryTable>();
  const std::unique_ptr<Group> other = rank_of_two(0, table);
  const std::shared_ptr<Group> current = rank_of_two(1, table);
};

}  // namespace liger
