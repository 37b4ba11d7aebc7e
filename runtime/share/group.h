// The ranks of a job share kernels and picks through the key-value store of their process group.
// Nothing here is a collective: a rank that never asks is never missed, and a rank that asks waits
// only for what another one has claimed to make.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "cache/entry.h"
#include "cache/key.h"
#include "runtime/share/store_caller.h"

namespace liger {

// Thread safe. Owned by its source (set_group_source) and by those who use it at the moment. Raises
// nothing: a store that fails or is late is one that has nothing and takes nothing.
class Group {
 public:
  // `back_off`: how long a store is left alone that did not answer in time.
  Group(int rank, int size, OpenStore open,
        BackOff back_off = BackOff(std::chrono::seconds(1), std::chrono::minutes(1)));
  ~Group();
  Group(const Group&) = delete;

  // Null without a process group, and in a child that a rank forked.
  static std::shared_ptr<Group> current();

  int rank() const { return rank_; }
  int size() const { return size_; }

  // The kernel that another rank made or is making, waited for within reason. Nothing when it is
  // for this rank to make: then it owes the group give() or give_up().
  std::optional<Entry> take(const Key& key);
  void give(const Key& key, const Entry& entry);
  void give_up(const Key& key);

  // Whether another rank has claimed this kernel and not delivered it yet. Waits for nothing.
  bool claimed_elsewhere(const Key& key);

  // The group's pick, the first that was proposed. Nothing when there is none yet.
  std::optional<Entry> agreed(const Key& key);
  // The same, but waits within reason for a rank that claimed to find it. Nothing when it is for
  // this rank to find: then it owes the group agree() or give_up().
  std::optional<Entry> agreed_or_claim(const Key& key);
  // What stands: the group's pick, or this proposal if it is the first or nobody answers.
  Entry agree(const Key& key, const Entry& proposal);

 private:
  std::optional<Entry> found(std::string_view kind, const Key& key);
  std::optional<Entry> found_or_claim(std::string_view kind, const Key& key);
  std::optional<std::string> get(const std::string& name);

  int rank_;
  int size_;
  std::shared_ptr<StoreCaller> caller_;
};

// Who knows the process group, asked at each miss, by any thread; installed by torch_bindings/
// while the library is loaded.
void set_group_source(std::function<std::shared_ptr<Group>()> source);

}  // namespace liger
