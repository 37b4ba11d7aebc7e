// 64 processes start cold in one empty folder, and a third of them is killed at a random moment.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>

#include "base/counters.h"
#include "base/files.h"
#include "cache/store.h"
#include "tests/base/temporary_folder.h"
#include "tests/repeats.h"

namespace liger {
namespace {

constexpr int process_count = 64;
constexpr int key_count = 200;

Key key_of(int number) { return Key().add("number", std::to_string(number)); }

// Told by its first byte alone; from one page to several.
std::string payload_of(char letter, int number) {
  return std::string(static_cast<size_t>(100 + number * 113), letter);
}

bool is_whole(const Entry& entry, int number) {
  return !entry.payload.empty() && entry.payload == payload_of(entry.payload[0], number);
}

// As a rank at its first step: each key is read and, where absent, published. The keys come in an
// order of its own, but for one half of the processes that go the same way.
[[noreturn]] void start_cold(const std::string& root, int process) {
  const uint64_t corrupt_before = counters().corrupt;
  const uint64_t failed_before = counters().publish_failed;
  Store store(root);
  std::vector<int> numbers(key_count);
  for (int i = 0; i < key_count; ++i) numbers[i] = i;
  if (process % 2 == 0) {
    std::shuffle(numbers.begin(), numbers.end(), std::mt19937(static_cast<unsigned>(process)));
  }
  bool whole = true;
  const char letter = static_cast<char>('0' + process);
  for (const int number : numbers) {
    for (const EntryKind kind : {EntryKind::artifact, EntryKind::tune}) {
      if (const auto entry = store.read(kind, key_of(number))) {
        whole = whole && is_whole(*entry, number);
      } else {
        store.publish(kind, key_of(number), "", payload_of(letter, number));
      }
    }
  }
  const bool calm =
      counters().corrupt == corrupt_before && counters().publish_failed == failed_before;
  ::_exit(whole ? (calm ? 0 : 2) : 3);
}

void make_old(const std::string& path) {
  const timeval two_hours_ago[2] = {{::time(nullptr) - 7200, 0}, {::time(nullptr) - 7200, 0}};
  ASSERT_EQ(::utimes(path.c_str(), two_hours_ago), 0);
}

TEST(ManyWriters, sixty_four_cold_processes_of_which_a_third_is_killed) {
  std::mt19937 random(17);
  int killed = 0;
  int left_over = 0;
  for (int repeat = 0; repeat < repeats("TORTURE_ROUNDS", 2); ++repeat) {
    const TemporaryFolder folder;
    const std::string root = folder / "cache";
    std::vector<pid_t> children;
    for (int i = 0; i < process_count; ++i) {
      children.push_back(::fork());
      if (children.back() == 0) start_cold(root, i);
      // Soon, because a slow machine starts the last one when the first have ended.
      if (i % 3 != 1) continue;
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
      ::kill(children.back(), SIGKILL);
    }
    for (const pid_t child : children) {
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      const bool was_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
      killed += was_killed ? 1 : 0;
      EXPECT_TRUE(was_killed || status == 0) << "exit code " << WEXITSTATUS(status);
    }

    Store reader(root);
    const std::vector<StoredFile> files = reader.list();
    EXPECT_EQ(files.size(), 2u * key_count);
    for (const StoredFile& file : files) EXPECT_TRUE(file.entry) << file.path;
    for (int number = 0; number < key_count; ++number) {
      for (const EntryKind kind : {EntryKind::artifact, EntryKind::tune}) {
        const auto entry = reader.read(kind, key_of(number));
        EXPECT_TRUE(entry && is_whole(*entry, number)) << number;
      }
    }
    // Temporaries of the dead go once they are old, and nothing else does.
    int temporaries = 0;
    for (const std::string& path : list_files(root)) {
      if (!is_temporary(path)) continue;
      ++temporaries;
      make_old(path);
    }
    left_over += temporaries;
    EXPECT_EQ(reader.sweep(), static_cast<uint64_t>(temporaries));
    EXPECT_EQ(list_files(root).size(), 2u * key_count);
  }
  EXPECT_GT(killed, 0);
  RecordProperty("killed", killed);
  RecordProperty("left_over", left_over);
}

}  // namespace
}  // namespace liger
