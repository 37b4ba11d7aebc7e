// The process group of torch.distributed, found by its name in torch's own table: no Python runs
// and no lock of the interpreter is taken.
#include "torch_bindings/process_group.h"

#include <unistd.h>

#include <atomic>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "base/process_state.h"
#include "runtime/share/group.h"

namespace liger::torch_bindings {
namespace {

constexpr const char* default_group = "0";  // what init_process_group calls the first one

class C10dStore final : public GroupStore {
 public:
  explicit C10dStore(c10::intrusive_ptr<c10d::Store> store) : store_(std::move(store)) {}

  // One message, where asking whether the name is there and then for its value would be three, of
  // which one raises if the server is slow. The store keeps an empty text for a name it did not
  // have; one that is a file grows by some forty bytes for each question.
  std::optional<std::string> get(const std::string& name) override {
    std::string value = propose(name, std::string());
    return value.empty() ? std::nullopt : std::optional(std::move(value));
  }

  void set(const std::string& name, const std::string& value) override { store_->set(name, value); }

  std::string propose(const std::string& name, const std::string& value) override {
    return store_->compareSet(name, std::string(), value);
  }

 private:
  c10::intrusive_ptr<c10d::Store> store_;
};

// What was found last. The group itself is not kept: its store may be a server, whose port is free
// again once the program has destroyed the group.
struct Binding {
  std::mutex mutex;
  std::string name = default_group;
  c10::weak_intrusive_ptr<c10d::ProcessGroup> of{c10::intrusive_ptr<c10d::ProcessGroup>()};
  std::shared_ptr<Group> group;
};

Binding& binding() { return ProcessState<Binding>::get(); }

// A child that a rank forked has that rank's group in its tables and is no rank itself.
std::atomic<const c10d::ProcessGroup*> last_bound{nullptr};
std::atomic<pid_t> bound_by{0};

bool is_parents(const c10d::ProcessGroup& group) {
  return last_bound == &group && bound_by != getpid();
}

c10::intrusive_ptr<c10d::ProcessGroup> resolved(const std::string& name) {
  if (name.empty()) return {};
  try {
    return c10d::resolve_process_group(name);
  } catch (const c10::Error&) {  // there is none of this name
    return {};
  }
}

std::shared_ptr<Group> current_group() {
  Binding& bound = binding();
  const std::lock_guard lock(bound.mutex);
  const auto found = resolved(bound.name);
  if (!found || found->getSize() < 2 || is_parents(*found)) {
    bound.group.reset();
    return nullptr;
  }
  if (bound.group && bound.of.lock() == found) return bound.group;
  last_bound = found.get();
  bound_by = getpid();
  bound.of = c10::weak_intrusive_ptr<c10d::ProcessGroup>(found);
  // A clone has a connection of its own: whoever waits on the group's holds it for as long.
  bound.group = std::make_shared<Group>(
      found->getRank(), found->getSize(), [of = bound.of]() -> std::unique_ptr<GroupStore> {
        const auto group = of.lock();
        TORCH_CHECK(group, "the process group was destroyed");
        return std::make_unique<C10dStore>(group->getStore()->clone());
      });
  return bound.group;
}

[[maybe_unused]] const bool installed = [] {
  set_group_source(current_group);
  return true;
}();

}  // namespace

void use_process_group(const std::string& name) {
  Binding& bound = binding();
  const std::lock_guard lock(bound.mutex);
  bound.name = name;
}

}  // namespace liger::torch_bindings
