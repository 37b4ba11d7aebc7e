// The pool behind compile_in_background(): a few threads of low priority that fill the artifact
// table.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <optional>
#include <system_error>
#include <thread>

#include "base/environment.h"
#include "base/hash.h"
#include "base/process_state.h"
#include "base/text.h"
#include "runtime/compile/nvrtc_process.h"
#include "runtime/kernels.h"
#include "runtime/share/group.h"
#include "runtime/share/wait_budget.h"

namespace liger {
namespace {

using Artifact = std::shared_ptr<const Binary>;

struct Task {
  Unit unit;
  Target target;
  Urgency urgency;
  std::promise<Artifact> promise;
  bool postponed = false;  // another process is at it
};

struct Pool {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Task> queue;
  std::deque<Task> dropped;  // at exit
  size_t urgent = 0;         // at its front
  size_t postponed = 0;      // at its end
  int threads = 0;
  int limit = 1;  // of threads
  int running = 0;
  int running_later = 0;  // of these, what has time
  int total = 0;          // since the last wait, as are the next two
  int done = 0;
  int made = 0;
  bool stopping = false;
  std::atomic<int> pending = 0;
};

Pool& pool() { return ProcessState<Pool>::get(); }

// A group without a launcher that tells is taken for ranks of this node.
int ranks_on_node(const Group* group) {
  if (environment().ranks_on_node > 0) return environment().ranks_on_node;
  return group ? group->size() : 1;
}

int thread_limit(int ranks) {
  if (environment().compile_threads > 0) return environment().compile_threads;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / ranks, 1, 8);
}

// Ranks that start together would all begin with the same unit and wait for each other. So each
// goes through them in an order of its own, unless it is alone: then in the order of their use.
size_t place_among(const Unit& unit, size_t others, int ranks, const Group* group) {
  if (ranks == 1) return others;
  const std::string own = fmt::format("{} {}", group ? group->rank() : getpid(), unit.expanded);
  return hash128(own).low % (others + 1);
}

// What is dropped stays in memory, for a promise that dies unfulfilled would wake its waiters.
void drop_queue(Pool& pool) {
  pool.stopping = true;
  WaitBudget::end_all_waits();
  pool.total -= static_cast<int>(pool.queue.size());
  std::move(pool.queue.begin(), pool.queue.end(), std::back_inserter(pool.dropped));
  pool.queue.clear();
  pool.urgent = pool.postponed = 0;
  pool.changed.notify_all();
}

// A compile must not run while the process's exit handlers take the compiler's library apart: what
// is queued is dropped, what runs is waited for, within reason.
void finish_at_exit() {
  Pool& pool = liger::pool();
  std::unique_lock lock(pool.mutex);
  drop_queue(pool);
  pool.changed.wait_for(lock, std::chrono::seconds(10), [&] { return pool.running == 0; });
}

// Whether the artifact was made; else the future knows what went wrong.
bool carry_out(Task& task) {
  try {
    task.promise.set_value(artifact(task.unit, task.target));
    return true;
  } catch (const std::exception&) {
    task.promise.set_exception(std::current_exception());
    return false;
  }
}

bool made_elsewhere(const Task& task) {
  try {
    return is_made_elsewhere(task.unit, task.target);
  } catch (const std::exception&) {  // comes again from the compile, which reports it
    return false;
  }
}

bool has_work(const Pool& pool) {
  if (pool.queue.empty()) return false;
  return pool.queue.front().urgency != Urgency::later ||
         pool.running_later < std::max(pool.limit / 2, 1);
}

Task taken(Pool& pool) {
  Task task = std::move(pool.queue.front());
  pool.queue.pop_front();
  if (pool.urgent > 0) pool.urgent -= 1;
  if (task.postponed) pool.postponed -= 1;
  return task;
}

// Its thread is free for what nobody makes yet; the wait, if one is left, comes at the end.
void put_off(Pool& pool, Task task) {
  if (pool.stopping) {
    pool.total -= 1;
    pool.dropped.push_back(std::move(task));
    pool.changed.notify_all();
    return;
  }
  task.postponed = true;
  pool.postponed += 1;
  pool.queue.push_back(std::move(task));
}

// With the pool's mutex held, until there is nothing to do.
void empty_queue(Pool& pool, std::unique_lock<std::mutex>& lock) {
  thread_local bool first = true;
  while (!pool.stopping && has_work(pool)) {
    Task task = taken(pool);
    const int later = task.urgency == Urgency::later;
    pool.running += 1;
    pool.running_later += later;
    const bool has_other_work = pool.queue.size() > pool.postponed;
    lock.unlock();
    if (has_other_work && !task.postponed && made_elsewhere(task)) {
      lock.lock();
      pool.running -= 1;
      pool.running_later -= later;
      put_off(pool, std::move(task));
      continue;
    }
    const bool made = carry_out(task);
    // Handlers run latest first, and the first compile may have registered some of its own.
    if (std::exchange(first, false)) std::atexit(finish_at_exit);
    lock.lock();
    pool.running -= 1;
    pool.running_later -= later;
    pool.done += 1;
    pool.pending -= task.urgency != Urgency::awaited;
    pool.made += made;
    pool.changed.notify_all();
  }
}

void work(Pool& pool, bool beside_others) {
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10);  // on Linux: of this thread alone
  std::unique_lock lock(pool.mutex);
  while (!pool.stopping) {
    std::optional<OwnNvrtc> own;
    if (beside_others) own.emplace();
    empty_queue(pool, lock);
    lock.unlock();  // a process takes a moment to end
    own.reset();
    lock.lock();
    pool.changed.wait(lock, [&] { return pool.stopping || has_work(pool); });
  }
}

// False where there is a limit on threads.
bool start_thread(Pool& pool) {
  try {
    std::thread(work, std::ref(pool), pool.threads > 0).detach();
  } catch (const std::system_error&) {
    return false;
  }
  pool.threads += 1;
  return true;
}

}  // namespace

std::shared_future<std::shared_ptr<const Binary>> compile_in_background(Unit unit, Target target,
                                                                        Urgency urgency) {
  Pool& pool = liger::pool();
  const std::shared_ptr<Group> group = Group::current();
  const int ranks = ranks_on_node(group.get());
  const int limit = thread_limit(ranks);
  Task task{std::move(unit), std::move(target), urgency, {}};
  auto future = task.promise.get_future().share();

  std::unique_lock lock(pool.mutex);
  pool.limit = limit;
  if (pool.stopping) {
    pool.dropped.push_back(std::move(task));
    return future;
  }
  if (pool.threads == 0) std::atexit(finish_at_exit);
  if (urgency != Urgency::later) {
    const size_t place = place_among(task.unit, pool.urgent, ranks, group.get());
    pool.queue.insert(pool.queue.begin() + place, std::move(task));
    pool.urgent += 1;
  } else {
    const size_t others = pool.queue.size() - pool.urgent - pool.postponed;
    const size_t place = pool.urgent + place_among(task.unit, others, ranks, group.get());
    pool.queue.insert(pool.queue.begin() + place, std::move(task));
  }
  pool.total += 1;
  pool.pending += urgency != Urgency::awaited;
  if (pool.threads < limit && pool.threads < pool.running + static_cast<int>(pool.queue.size())) {
    if (!start_thread(pool) && pool.threads == 0) empty_queue(pool, lock);
  }
  pool.changed.notify_all();
  return future;
}

int wait_for_background_compiles(const std::function<void(int done, int total)>& progress) {
  Pool& pool = liger::pool();
  std::unique_lock lock(pool.mutex);
  int told = -1;
  while (true) {
    if (progress && told != pool.done) {
      told = pool.done;
      const int total = pool.total;
      lock.unlock();
      progress(told, total);
      lock.lock();
      continue;
    }
    if (pool.done == pool.total) break;
    pool.changed.wait(lock);
  }
  const int made = pool.made;
  pool.total = pool.done = pool.made = 0;
  return made;
}

void end_background_compiles() {
  Pool& pool = liger::pool();
  const std::lock_guard lock(pool.mutex);
  drop_queue(pool);
}

bool background_compiles_pending() { return pool().pending.load(std::memory_order_relaxed) > 0; }

BackgroundProgress background_progress() {
  Pool& pool = liger::pool();
  const std::lock_guard lock(pool.mutex);
  return {pool.done, pool.total, pool.done - pool.made};
}

}  // namespace liger
