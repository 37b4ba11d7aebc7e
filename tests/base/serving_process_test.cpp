#include "base/serving_process.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/error.h"
#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

using Clock = std::chrono::steady_clock;

Deadline soon() { return Clock::now() + std::chrono::seconds(20); }

// Sends back whatever it gets, as `cat` does with a whole message.
ServingProcess echo() { return ServingProcess({"cat"}, {}); }

bool lives(pid_t process) { return kill(process, 0) == 0; }

TEST(ServingProcess, answers_one_message_after_another_of_any_size) {
  ServingProcess process = echo();
  for (const size_t size_bytes : {5, 0, 100'000}) {
    const std::string text(size_bytes, 'x');
    ASSERT_TRUE(process.send(text, soon()));
    EXPECT_EQ(process.receive(soon()), text);
  }
}

TEST(ServingProcess, ends_with_its_owner) {
  pid_t id = 0;
  {
    ServingProcess process = echo();
    id = process.id();
    EXPECT_TRUE(lives(id));
  }
  EXPECT_FALSE(lives(id));
}

// Its own copy of the socket would keep the process waiting.
TEST(ServingProcess, ends_with_its_owner_beside_a_forked_child) {
  pid_t child = -1;
  const auto begin = Clock::now();
  {
    ServingProcess process = echo();
    child = fork();
    if (child == 0) {
      pause();
      _exit(0);
    }
    ASSERT_TRUE(process.send("here", soon()));
    EXPECT_EQ(process.receive(soon()), "here");
  }
  EXPECT_LT(Clock::now() - begin, std::chrono::milliseconds(900));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

TEST(ServingProcess, one_that_does_not_end_is_killed) {
  pid_t id = 0;
  {
    ServingProcess process({"sh", "-c", "exec sleep 60"}, {});
    id = process.id();
  }
  EXPECT_FALSE(lives(id));
}

TEST(ServingProcess, one_that_died_is_told_by_a_failure_and_by_no_signal) {
  signal(SIGPIPE, SIG_DFL);
  ServingProcess process({"sh", "-c", "exit 3"}, {});
  EXPECT_EQ(process.receive(soon()), std::nullopt);
  EXPECT_FALSE(process.send(std::string(1 << 20, 'x'), soon()));
}

TEST(ServingProcess, silence_and_nonsense_end_at_the_deadline_or_before) {
  ServingProcess silent({"sleep", "60"}, {});
  const auto begin = Clock::now();
  EXPECT_EQ(silent.receive(begin + std::chrono::milliseconds(50)), std::nullopt);
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(10));
  ServingProcess foreign({"sh", "-c", "echo hello, who are you"}, {});
  EXPECT_EQ(foreign.receive(soon()), std::nullopt);
}

TEST(ServingProcess, what_cannot_be_started_is_a_compile_error) {
  try {
    ServingProcess({"/nonexistent/program"}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::compile);
    EXPECT_NE(std::string(error.what()).find("/nonexistent/program"), std::string::npos);
  }
}

}  // namespace
}  // namespace liger
