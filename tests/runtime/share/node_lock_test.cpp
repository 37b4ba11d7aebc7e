// Real processes that hold a node's lock, die with it, or never let go.
#include "runtime/share/node_lock.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <thread>

#include "base/counters.h"
#include "tests/runtime/compile/sample_unit.h"

namespace liger {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

const Hash128 key_one{1, 1000};
const Hash128 key_two{2, 2000};
const std::string folder = "/a/folder";

milliseconds since(Clock::time_point begin) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - begin);
}

// A process that runs `body` and then says so; it lives until it is killed.
class Process {
 public:
  template <typename Body>
  explicit Process(Body body) {
    int ends[2];
    if (pipe(ends) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      body([&] { static_cast<void>(!write(ends[1], "r", 1)); });
      pause();
    }
    char ready = 0;
    close(ends[1]);
    is_ready = read(ends[0], &ready, 1) == 1;
    close(ends[0]);
  }
  Process(const Process&) = delete;
  ~Process() { end(); }
  void end() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  bool is_ready = false;

 private:
  pid_t pid_;
};

Process holder_of(std::initializer_list<Hash128> keys) {
  return Process([&](auto ready) {
    for (const Hash128& key : keys) new NodeLock(key, folder);
    ready();
  });
}

template <typename Body>
bool in_child(Body body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body() ? 0 : 1);
  int status = -1;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(NodeLockTest, another_process_waits_until_the_holder_is_done) {
  Process holder([](auto ready) {
    const NodeLock lock(key_one, folder);
    ready();
    std::this_thread::sleep_for(milliseconds(100));
  });
  ASSERT_TRUE(holder.is_ready);
  EXPECT_TRUE(NodeLock::busy(key_one, folder));
  EXPECT_FALSE(NodeLock::busy(key_two, folder));
  const auto begin = Clock::now();
  const NodeLock lock(key_one, folder);
  EXPECT_TRUE(lock.waited());
  EXPECT_GE(since(begin), milliseconds(40));
  EXPECT_LT(since(begin), milliseconds(450));
}

TEST(NodeLockTest, killed_holder_lets_go) {
  Process holder = holder_of({key_one});
  ASSERT_TRUE(NodeLock::busy(key_one, folder));
  std::thread killer([&] {
    std::this_thread::sleep_for(milliseconds(50));
    holder.end();
  });
  const auto begin = Clock::now();
  const NodeLock lock(key_one, folder);
  EXPECT_TRUE(lock.waited());
  EXPECT_LT(since(begin), milliseconds(400));
  killer.join();
}

TEST(NodeLockTest, holder_that_hangs_is_paid_for_once_and_not_for_each_key) {
  const Process holder = holder_of({key_one, key_two});
  ASSERT_TRUE(holder.is_ready);
  EXPECT_TRUE(in_child([] {
    const uint64_t expired_before = counters().wait_expired;
    const auto begin = Clock::now();
    const NodeLock first(key_one, folder);
    const auto first_took = since(begin);
    const NodeLock second(key_two, folder);
    const auto both_took = since(begin);
    fprintf(stderr, "first %ld ms, both %ld ms\n", static_cast<long>(first_took.count()),
            static_cast<long>(both_took.count()));
    return first_took >= milliseconds(450) && both_took - first_took < milliseconds(100) &&
           counters().wait_expired >= expired_before + 1;
  }));
}

TEST(NodeLockTest, forked_child_does_not_hold_its_parents_lock) {
  std::optional<Process> child;
  {
    const NodeLock lock(key_one, folder);
    EXPECT_TRUE(in_child([] { return NodeLock::busy(key_one, folder); }));
    child.emplace([](auto ready) { ready(); });
  }
  EXPECT_TRUE(in_child([] { return !NodeLock::busy(key_one, folder); }));
}

TEST(NodeLockTest, another_folder_is_another_lock) {
  const Process holder = holder_of({key_one});
  EXPECT_FALSE(NodeLock(key_one, "/another/folder").waited());
  EXPECT_FALSE(NodeLock(key_one, "").waited());
}

TEST(NodeLockTest, without_its_file_nobody_waits) {
  const Process holder = holder_of({key_one});
  EXPECT_TRUE(in_child([] {
    set_node_lock_file("/nonexistent/lock");
    return !NodeLock::busy(key_one, folder) && !NodeLock(key_one, folder).waited();
  }));
}

// Somebody else's file, or a link that somebody put there, is not even opened for writing.
TEST(NodeLockTest, link_in_its_place_is_not_followed) {
  const std::string link = test_cache_folder() + "/lock-link";
  ASSERT_EQ(symlink("/dev/null", link.c_str()), 0);
  EXPECT_TRUE(in_child([&] {
    set_node_lock_file(link);
    return !NodeLock(key_one, folder).waited();
  }));
}

}  // namespace
}  // namespace liger
