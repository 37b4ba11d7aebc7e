// A writer that dies after its n-th system call, for every n from the first to the last of a
// publish.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/counters.h"
#include "base/files.h"
#include "cache/store.h"
#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

constexpr int most_calls = 10'000;

Key key() { return Key().add("name", "interrupted"); }

std::string payload_of(char letter) { return std::string(50'000, letter); }

void publish(EntryKind kind, const std::string& root, char letter) {
  Store(root).publish(kind, key(), "symbol=run\n", payload_of(letter));
}

enum class End { finished, killed, refused };

// Runs a publish in a child that is killed once `calls` of its system calls have returned.
End publish_until(EntryKind kind, const std::string& root, int calls) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(2);
    ::raise(SIGSTOP);
    publish(kind, root, 'b');
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status)) return End::refused;
  // The child stops at the entry and at the return of each call; the first stop is in raise().
  for (int stops = 0; stops < 2 * calls; ++stops) {
    ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status)) return End::finished;
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  return End::killed;
}

// What a reader gets: a letter, or 0 for a miss. Anything but a whole entry fails the test.
char letter_read(EntryKind kind, const std::string& root) {
  const auto entry = Store(root).read(kind, key());
  if (!entry) return 0;
  EXPECT_EQ(entry->meta, "symbol=run\n");
  EXPECT_EQ(entry->payload, payload_of(entry->payload[0]));
  return entry->payload[0];
}

class InterruptedPublish : public testing::TestWithParam<std::pair<EntryKind, bool>> {};

TEST_P(InterruptedPublish, next_reader_finds_all_or_nothing_after_each_system_call) {
  const auto [kind, is_there_before] = GetParam();
  const uint64_t corrupt_before = counters().corrupt;
  const uint64_t failed_before = counters().publish_failed;
  int misses = 0;
  int hits = 0;
  int leftovers = 0;
  End end = End::killed;
  int calls = 0;
  for (; end == End::killed && calls < most_calls; ++calls) {
    const TemporaryFolder folder;
    const std::string root = folder / "cache";
    if (is_there_before) publish(kind, root, 'a');
    end = publish_until(kind, root, calls);
    if (end == End::refused) GTEST_SKIP() << "ptrace is refused";

    const char letter = letter_read(kind, root);
    ++(letter == 0 ? misses : hits);
    EXPECT_TRUE(letter == 'b' || letter == (is_there_before ? 'a' : 0)) << calls << letter;
    leftovers += list_files(root).size() > (letter == 0 ? 0u : 1u) ? 1 : 0;

    // The next writer is not hindered by what the dead one left.
    publish(kind, root, 'c');
    const bool first_stands = kind == EntryKind::artifact && letter != 0;
    EXPECT_EQ(letter_read(kind, root), first_stands ? letter : 'c') << calls;
  }
  EXPECT_EQ(end, End::finished);
  EXPECT_GT(calls, 10) << "the sweep did not go through the publish";
  EXPECT_GT(leftovers, 0) << "no writer died with its temporary open";
  EXPECT_GT(hits, 0);
  EXPECT_GT(misses, is_there_before ? -1 : 5);
  EXPECT_EQ(counters().corrupt, corrupt_before);
  EXPECT_EQ(counters().publish_failed, failed_before);
  RecordProperty("system_calls", calls - 1);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, InterruptedPublish,
    testing::Values(std::pair(EntryKind::artifact, false), std::pair(EntryKind::artifact, true),
                    std::pair(EntryKind::tune, false), std::pair(EntryKind::tune, true)),
    [](const auto& tested) {
      return std::string(tested.param.first == EntryKind::artifact ? "artifact" : "tune") +
             (tested.param.second ? "_there" : "_absent");
    });

}  // namespace
}  // namespace liger
