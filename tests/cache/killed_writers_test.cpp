// Many processes, some of them killed at any moment, share one folder.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

#include "base/counters.h"
#include "base/files.h"
#include "cache/store.h"
#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

constexpr int writer_count = 8;
constexpr int key_count = 40;
constexpr int round_count = 60;

Key key_of(int number) { return Key().add("number", std::to_string(number)); }

// Long enough for several writes, and told by its first byte alone.
std::string payload_of(char letter, int number) {
  return std::string(static_cast<size_t>(1 + number * 5000), letter);
}

bool is_whole(const Entry& entry, int number) {
  return !entry.payload.empty() && entry.payload == payload_of(entry.payload[0], number);
}

// What went wrong in this process; a child starts with its parent's number.
uint64_t troubles() { return counters().publish_failed + counters().corrupt; }

// Publishes every key over and over until it is killed or has done its rounds.
[[noreturn]] void write_for_ever(const std::string& root, int writer) {
  const uint64_t troubles_before = troubles();
  Store store(root);
  std::mt19937 random(static_cast<unsigned>(writer) + 1);
  const char letter = static_cast<char>('a' + writer);
  for (int i = 0; i < key_count * round_count; ++i) {
    const int number = static_cast<int>(random() % key_count);
    store.publish(EntryKind::artifact, key_of(number), "", payload_of(letter, number));
    store.publish(EntryKind::tune, key_of(number), "", payload_of(letter, number));
    // Removing makes room for new first writers.
    if (random() % 8 == 0) {
      const std::string hex = key_of(number).hash().hex();
      remove_file(root + "/v1/a/" + hex.substr(0, 2) + "/" + hex + ".ljk");
    }
  }
  ::_exit(troubles() == troubles_before ? 0 : 1);
}

pid_t start_writer(const std::string& root, int writer) {
  const pid_t child = ::fork();
  if (child == 0) write_for_ever(root, writer);
  return child;
}

TEST(KilledWriters, reader_never_sees_half_an_entry) {
  const TemporaryFolder folder;
  const std::string root = folder / "cache";
  const uint64_t corrupt_before = counters().corrupt;
  Store reader(root);
  std::vector<pid_t> writers;
  for (int i = 0; i < writer_count; ++i) writers.push_back(start_writer(root, i));

  std::mt19937 random(99);
  int killed = 0;
  int reads = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(4);
  while (std::chrono::steady_clock::now() < end || killed <= 3) {
    for (int number = 0; number < key_count; ++number) {
      for (const EntryKind kind : {EntryKind::artifact, EntryKind::tune}) {
        const auto entry = reader.read(kind, key_of(number));
        if (!entry) continue;
        ++reads;
        ASSERT_TRUE(is_whole(*entry, number)) << number;
      }
    }
    // Half of the writers die at a random moment and are started anew.
    const size_t victim = random() % (writer_count / 2);
    ::kill(writers[victim], SIGKILL);
    ASSERT_EQ(::waitpid(writers[victim], nullptr, 0), writers[victim]);
    ++killed;
    writers[victim] = start_writer(root, static_cast<int>(victim));
  }
  for (size_t i = 0; i < writers.size(); ++i) {
    if (i < writer_count / 2) ::kill(writers[i], SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(writers[i], &status, 0), writers[i]);
    if (i < writer_count / 2) continue;
    EXPECT_EQ(status, 0) << "a writer that lived saw trouble";
  }
  EXPECT_EQ(counters().corrupt, corrupt_before);
  EXPECT_GT(killed, 3);
  EXPECT_GT(reads, 100);

  // What the dead left behind is temporaries, and no file of a name that is read.
  for (const StoredFile& file : reader.list()) EXPECT_TRUE(file.entry) << file.path;
  for (const std::string& path : list_files(root)) {
    const bool temporary = std::filesystem::path(path).filename().string().starts_with(".tmp-");
    EXPECT_TRUE(temporary || path.ends_with(".ljk") || path.ends_with(".ljt")) << path;
  }
}

TEST(KilledWriters, without_kills_no_temporary_stays) {
  const TemporaryFolder folder;
  const std::string root = folder / "cache";
  std::vector<pid_t> writers;
  for (int i = 0; i < writer_count; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      const uint64_t troubles_before = troubles();
      Store store(root);
      for (int number = 0; number < key_count; ++number) {
        store.publish(EntryKind::artifact, key_of(number), "", payload_of('x', number));
      }
      ::_exit(troubles() == troubles_before ? 0 : 1);
    }
    writers.push_back(child);
  }
  for (const pid_t writer : writers) {
    int status = 0;
    ASSERT_EQ(::waitpid(writer, &status, 0), writer);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(list_files(root).size(), static_cast<size_t>(key_count));
  for (const StoredFile& file : Store(root).list()) EXPECT_TRUE(file.entry) << file.path;
}

}  // namespace
}  // namespace liger
