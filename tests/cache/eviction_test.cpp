#include "cache/eviction.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <ctime>

#include "base/counters.h"
#include "base/files.h"
#include "cache/store.h"
#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

constexpr int64_t one_day = 24 * 3600;

Key key_of(int number) { return Key().add("number", std::to_string(number)); }

void set_age(const std::string& path, int64_t seconds) {
  const time_t then = ::time(nullptr) - seconds;
  const timeval times[2] = {{then, 0}, {then, 0}};
  ASSERT_EQ(::utimes(path.c_str(), times), 0) << path;
}

int64_t age_of(const std::string& path) { return ::time(nullptr) - *modified_seconds(path); }

class EvictionTest : public testing::Test {
 protected:
  // The file of an entry of 1000 bytes and some.
  std::string publish(int number, EntryKind kind = EntryKind::artifact) {
    Store(root_).publish(kind, key_of(number), "", std::string(1000, 'x'));
    return file_of(number, kind);
  }
  std::string file_of(int number, EntryKind kind = EntryKind::artifact) const {
    const std::string hex = key_of(number).hash().hex();
    const bool artifact = kind == EntryKind::artifact;
    return v1_ + (artifact ? "/a/" : "/t/") + hex.substr(0, 2) + "/" + hex +
           (artifact ? ".ljk" : ".ljt");
  }
  uint64_t entry_bytes() { return fs::file_size(publish(0)); }

  const TemporaryFolder folder_;
  const std::string root_ = folder_ / "cache";
  const std::string v1_ = root_ + "/v1";
};

TEST_F(EvictionTest, longest_unused_go_first_until_the_size_is_met) {
  const uint64_t one = entry_bytes();
  for (int i = 0; i < 10; ++i) set_age(publish(i), (10 - i) * one_day);
  set_age(publish(11, EntryKind::tune), 20 * one_day);
  const Pruned pruned = prune_folder(v1_, 5 * one);
  EXPECT_TRUE(pruned.elected);
  EXPECT_EQ(pruned.removed_files, 6u);
  EXPECT_LE(pruned.kept_bytes, 5 * one);
  EXPECT_FALSE(fs::exists(file_of(11, EntryKind::tune)));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(fs::exists(file_of(i)), i >= 5) << i;
  EXPECT_EQ(prune_folder(v1_, 5 * one).removed_files, 0u);
}

TEST_F(EvictionTest, quarantine_goes_before_entries_and_temporaries_stay) {
  const uint64_t one = entry_bytes();
  set_age(publish(0), 5 * one_day);
  make_folders(v1_ + "/q");
  write_plainly(v1_ + "/q/new", std::string(one, 'x'));
  write_plainly(v1_ + "/a/.tmp-writer", std::string(one, 'x'));
  EXPECT_EQ(prune_folder(v1_, one).removed_files, 1u);
  EXPECT_FALSE(fs::exists(v1_ + "/q/new"));
  EXPECT_TRUE(fs::exists(file_of(0)));
  EXPECT_EQ(prune_folder(v1_, 0).removed_files, 1u);
  EXPECT_TRUE(fs::exists(v1_ + "/a/.tmp-writer"));
}

TEST_F(EvictionTest, read_marks_an_entry_as_used_at_most_once_a_day) {
  set_age(publish(1), 3 * one_day);
  Store store(root_);
  ASSERT_TRUE(store.read(EntryKind::artifact, key_of(1)));
  EXPECT_LT(age_of(file_of(1)), 60);
  set_age(file_of(1), one_day / 2);
  ASSERT_TRUE(store.read(EntryKind::artifact, key_of(1)));
  EXPECT_GE(age_of(file_of(1)), one_day / 2) << "used today already";
}

TEST_F(EvictionTest, used_entry_outlives_one_that_was_written_later) {
  const uint64_t one = entry_bytes();
  fs::remove(file_of(0));
  set_age(publish(1), 9 * one_day);
  set_age(publish(2), 2 * one_day);
  ASSERT_TRUE(Store(root_).read(EntryKind::artifact, key_of(1)));
  prune_folder(v1_, one);
  EXPECT_TRUE(fs::exists(file_of(1)));
  EXPECT_FALSE(fs::exists(file_of(2)));
}

TEST_F(EvictionTest, entry_that_is_used_or_replaced_after_it_was_listed_stays) {
  for (int i = 1; i <= 3; ++i) set_age(publish(i), 9 * one_day);
  const std::vector<Evictable> listed = evictables_of(v1_);
  ASSERT_EQ(listed.size(), 3u);
  ASSERT_TRUE(Store(root_).read(EntryKind::artifact, key_of(1)));
  fs::remove(file_of(2));
  publish(2);
  Pruned result;
  remove_longest_unused(listed, 0, result);
  EXPECT_EQ(result.removed_files, 1u);
  EXPECT_TRUE(fs::exists(file_of(1)));
  EXPECT_TRUE(fs::exists(file_of(2)));
  EXPECT_FALSE(fs::exists(file_of(3)));
}

TEST_F(EvictionTest, readonly_layer_is_neither_pruned_nor_marked) {
  set_age(publish(1), 9 * one_day);
  Store store(folder_ / "own", {root_});
  ASSERT_TRUE(store.read(EntryKind::artifact, key_of(1)));
  EXPECT_GE(age_of(file_of(1)), 9 * one_day);
  store.prune(0);
  EXPECT_TRUE(fs::exists(file_of(1)));
}

TEST_F(EvictionTest, one_process_at_a_time_and_nobody_waits) {
  publish(1);
  const int other = ::open((v1_ + "/prune.lock").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(::flock(other, LOCK_EX), 0);
  EXPECT_FALSE(prune_folder(v1_, 0).elected);
  prune_if_due(v1_, 0);
  EXPECT_TRUE(fs::exists(file_of(1)));
  EXPECT_FALSE(fs::exists(v1_ + "/pruned")) << "whoever loses the election has not done it";
  ::close(other);
  EXPECT_TRUE(prune_folder(v1_, 0).elected);
  EXPECT_FALSE(fs::exists(file_of(1)));
}

TEST_F(EvictionTest, once_a_day) {
  publish(1);
  prune_if_due(v1_, 0);
  EXPECT_FALSE(fs::exists(file_of(1)));
  publish(1);
  prune_if_due(v1_, 0);
  EXPECT_TRUE(fs::exists(file_of(1)));
  set_age(v1_ + "/pruned", one_day + 60);
  prune_if_due(v1_, 0);
  EXPECT_FALSE(fs::exists(file_of(1)));
  EXPECT_LT(age_of(v1_ + "/pruned"), 60);
}

TEST_F(EvictionTest, dead_writers_temporaries_go_along) {
  publish(1);
  write_plainly(v1_ + "/a/.tmp-old", "half");
  set_age(v1_ + "/a/.tmp-old", 7200);
  prune_if_due(v1_, 1 << 20);
  EXPECT_FALSE(fs::exists(v1_ + "/a/.tmp-old"));
  EXPECT_TRUE(fs::exists(file_of(1)));
}

// Files whose times a machine has set whose clock is a day ahead or behind.
TEST_F(EvictionTest, clock_a_day_off_harms_nothing) {
  const uint64_t one = entry_bytes();
  for (const int64_t off : {one_day, -one_day}) {
    set_age(publish(1), off);
    set_age(publish(2), off + one_day / 2);
    fs::remove(file_of(0));
    Store store(root_);
    EXPECT_TRUE(store.read(EntryKind::artifact, key_of(1)));
    EXPECT_TRUE(store.read(EntryKind::artifact, key_of(2)));
    EXPECT_TRUE(prune_folder(v1_, one).elected);
    EXPECT_EQ(list_files(v1_ + "/a").size(), 1u);
    publish(1);
    publish(2);
  }
  // The mark of the last time lies ahead: within a day it holds, beyond it is not believed.
  prune_if_due(v1_, 0);
  publish(1);
  set_age(v1_ + "/pruned", -one_day / 2);
  prune_if_due(v1_, 0);
  EXPECT_TRUE(fs::exists(file_of(1)));
  set_age(v1_ + "/pruned", -2 * one_day);
  prune_if_due(v1_, 0);
  EXPECT_FALSE(fs::exists(file_of(1)));
}

TEST_F(EvictionTest, first_publish_of_a_process_prunes_in_the_background) {
  for (int i = 1; i <= 8; ++i) set_age(publish(i), i * one_day);
  const uint64_t one = fs::file_size(file_of(1));
  Store store(root_, {}, {.prune_to_bytes = 3 * one});
  EXPECT_TRUE(store.read(EntryKind::artifact, key_of(1)));
  EXPECT_FALSE(fs::exists(v1_ + "/pruned")) << "who only reads does not prune";
  store.publish(EntryKind::artifact, key_of(9), "", std::string(1000, 'x'));
  for (int i = 0; i < 1000 && !fs::exists(v1_ + "/pruned"); ++i) ::usleep(10'000);
  EXPECT_EQ(list_files(v1_ + "/a").size(), 3u);
  for (const int kept : {9, 1, 2}) EXPECT_TRUE(fs::exists(file_of(kept))) << kept;
}

TEST_F(EvictionTest, size_of_nothing_means_never) {
  set_age(publish(1), 100 * one_day);
  Store store(root_);
  store.publish(EntryKind::artifact, key_of(2), "", "binary");
  ::usleep(50'000);
  EXPECT_FALSE(fs::exists(v1_ + "/pruned"));
  EXPECT_TRUE(fs::exists(file_of(1)));
}

int seconds_of_the_loop() {
  const char* const asked = std::getenv("LIGER_TEST_PRUNE_SECONDS");
  return asked == nullptr ? 2 : std::atoi(asked);
}

// Processes that read and publish, and processes that prune all away under them, all in one folder.
TEST_F(EvictionTest, prune_loop_beside_readers_and_writers_loses_no_read) {
  constexpr int key_count = 40;
  const auto payload = [](int number) { return std::string(500 + number, 'a' + number % 26); };
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds_of_the_loop());
  const uint64_t corrupt_before = counters().corrupt;
  const uint64_t failed_before = counters().publish_failed;
  const auto in_child = [&](auto round) {
    const pid_t child = ::fork();
    if (child != 0) return child;
    bool sound = true;
    while (sound && std::chrono::steady_clock::now() < end) sound = round();
    sound &= counters().corrupt == corrupt_before && counters().publish_failed == failed_before;
    ::_exit(sound ? 0 : 1);
  };
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    children.push_back(in_child([&] {
      static Store& store = *new Store(root_);
      static int number = i;
      number = (number + 1) % key_count;
      const auto entry = store.read(EntryKind::artifact, key_of(number));
      if (entry) return entry->payload == payload(number);
      store.publish(EntryKind::artifact, key_of(number), "", payload(number));
      return true;
    }));
  }
  for (int i = 0; i < 2; ++i) {
    children.push_back(in_child([&] {
      const Pruned pruned = prune_folder(v1_, 5000);
      return !pruned.elected || pruned.kept_bytes <= 5000;
    }));
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  for (const std::string& path : list_files(v1_)) {
    EXPECT_EQ(path.find("/.tmp-"), std::string::npos) << path;
  }
  for (const StoredFile& file : Store(root_).list()) EXPECT_TRUE(file.entry) << file.path;
}

TEST_F(EvictionTest, folder_that_cannot_be_written_is_a_problem_and_no_lost_election) {
  const Pruned pruned = prune_folder(root_ + "/absent", 0);
  EXPECT_NE(pruned.problem.find("No such file"), std::string::npos) << pruned.problem;
  Store(root_).publish(EntryKind::artifact, key_of(1), "", "x");
  EXPECT_EQ(prune_folder(v1_, 0).problem, "");
}

}  // namespace
}  // namespace liger
