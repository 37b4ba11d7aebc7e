#include "base/process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

ProcessResult shell(const std::string& text, const std::string& input = {}, double timeout = 60) {
  return run_process({"sh", "-c", text}, input, timeout);
}

TEST(Process, output_and_error_come_apart) {
  const ProcessResult result = shell("echo out; echo err >&2");
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.output, "out\n");
  EXPECT_EQ(result.error, "err\n");
}

TEST(Process, exit_code_and_signal_are_told_apart) {
  EXPECT_EQ(shell("exit 7").exit_code, 7);
  EXPECT_FALSE(shell("exit 7").ok());
  const ProcessResult killed = shell("kill -SEGV $$");
  EXPECT_EQ(killed.signal, SIGSEGV);
  EXPECT_EQ(killed.exit_code, -1);
  EXPECT_FALSE(killed.ok());
}

TEST(Process, megabytes_through_both_ways_do_not_block) {
  std::string input(3 << 20, 'x');
  input.back() = 'y';
  const ProcessResult result = run_process({"sh", "-c", "tee /dev/stderr"}, input);
  EXPECT_TRUE(result.ok());
  EXPECT_TRUE(result.output == input);
  EXPECT_TRUE(result.error == input);
}

TEST(Process, program_that_ignores_its_input_does_no_harm) {
  EXPECT_TRUE(shell("exec 0<&-; exit 0", std::string(1 << 20, 'x')).ok());
}

TEST(Process, without_input_the_program_sees_its_end_at_once) {
  EXPECT_EQ(shell("cat; echo done").output, "done\n");
}

TEST(Process, no_shell_reads_the_arguments) {
  EXPECT_EQ(run_process({"printf", "%s", "$HOME; *"}).output, "$HOME; *");
}

TEST(Process, program_that_cannot_be_started_is_a_compile_error_that_names_it) {
  const TemporaryFolder folder;
  write_plainly(folder / "text", "not a program");
  for (const std::string& program : {std::string("/no/such/compiler"), folder / "text"}) {
    try {
      run_process({program});
      ADD_FAILURE() << program << " was started";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::compile);
      EXPECT_NE(std::string(error.what()).find(program), std::string::npos);
    }
  }
  EXPECT_THROW(run_process({}), Error);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  std::sort(lines.begin(), lines.end());
  return lines;
}

TEST(Process, its_environment_is_the_list_and_what_the_caller_adds) {
  const std::string path = ::getenv("PATH");
  ::setenv("LIGER_TEST_A", "outer", 1);
  ::setenv("LC_ALL", "de_DE.UTF-8", 1);
  ::setenv("LD_LIBRARY_PATH", "/some/where", 1);
  const auto found =
      lines_of(run_process({"env"}, {}, 60, {"LIGER_TEST_B=new", "TMPDIR=/dev/shm"}).output);
  ::unsetenv("LD_LIBRARY_PATH");
  EXPECT_EQ(lines_of(run_process({"env"}).output), lines_of("LC_ALL=C\nPATH=" + path));
  ::unsetenv("LIGER_TEST_A");
  ::unsetenv("LC_ALL");
  EXPECT_EQ(found, lines_of("LC_ALL=C\nLD_LIBRARY_PATH=/some/where\nLIGER_TEST_B=new\nPATH=" +
                            path + "\nTMPDIR=/dev/shm"));
}

TEST(Process, timeout_ends_the_program_and_what_it_started) {
  const TemporaryFolder folder;
  const auto start = std::chrono::steady_clock::now();
  const ProcessResult result =
      shell("(sleep 2; echo late > '" + folder / "late" + "') & echo early; sleep 60", {}, 0.5);
  EXPECT_LT(seconds_since(start), 20);
  EXPECT_TRUE(result.timed_out);
  EXPECT_FALSE(result.ok());
  EXPECT_EQ(result.output, "early\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  EXPECT_FALSE(std::filesystem::exists(folder / "late"));
}

TEST(Process, server_left_behind_with_the_pipes_does_not_hold_us) {
  const auto start = std::chrono::steady_clock::now();
  const ProcessResult result = shell("sleep 20 & echo $!");
  EXPECT_LT(seconds_since(start), 10);
  EXPECT_TRUE(result.ok());
  ::kill(std::stoi(result.output), SIGKILL);
}

TEST(Process, ignored_child_signal_in_the_host_process_does_not_hang) {
  const auto before = ::signal(SIGCHLD, SIG_IGN);
  const ProcessResult result = shell("echo out");
  ::signal(SIGCHLD, before);
  EXPECT_EQ(result.output, "out\n");
}

TEST(Process, many_threads_at_once) {
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&good, i] {
      const std::string text = std::to_string(i);
      for (int j = 0; j < 5; ++j) good += run_process({"cat"}, text).output == text ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 40);
}

TEST(FindProgram, takes_the_first_that_can_be_run) {
  const TemporaryFolder folder;
  write_plainly(folder / "plain", "");
  write_plainly(folder / "program", "");
  ASSERT_EQ(::chmod((folder / "program").c_str(), 0700), 0);
  EXPECT_EQ(find_program({"liger-no-such-program", folder / "plain", folder / "program", "sh"}),
            folder / "program");
  const auto shell_path = find_program({"liger-no-such-program", "sh"});
  ASSERT_TRUE(shell_path);
  EXPECT_TRUE(shell_path->ends_with("/sh"));
  EXPECT_FALSE(find_program({"", "liger-no-such-program", folder.path()}));
}

}  // namespace
}  // namespace liger
