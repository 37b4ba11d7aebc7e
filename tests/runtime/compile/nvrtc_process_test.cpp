// NVRTC in a process of a thread's own, without a GPU; and helpers that die, lie or are not there.
#include "runtime/compile/nvrtc_process.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/shared_library.h"
#include "base/text.h"
#include "runtime/compile/compiler.h"
#include "runtime/kernels.h"
#include "tests/base/temporary_folder.h"
#include "tests/runtime/compile/sample_unit.h"

namespace liger {
namespace {

const std::string real_helper = own_folder() + "/liger-nvrtc-helper";

class NvrtcProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const CompilerState state = compiler_.state(); !state.found) GTEST_SKIP() << state.problem;
    here_ = compile();
  }
  void TearDown() override { set_nvrtc_helper(real_helper); }

  std::string compile() { return compiler_.compile(scale_unit(2), target_).bytes; }

  // The helper is this script.
  void pretend(const std::string& script) const {
    const std::string path = folder_ / "helper";
    std::ofstream(path) << "#!/bin/sh\n" << script << "\n";
    chmod(path.c_str(), 0700);
    set_nvrtc_helper(path);
  }

  // The true helper, which leaves its id in a file, a line for each process.
  void watch() const { pretend(fmt::format("echo $$ >> {}; exec {} \"$@\"", ids_, real_helper)); }

  std::vector<pid_t> processes() const {
    std::vector<pid_t> ids;
    std::ifstream file(ids_);
    for (pid_t id = 0; file >> id;) ids.push_back(id);
    return ids;
  }

  TemporaryFolder folder_;
  const std::string ids_ = folder_ / "ids";
  const Target target_ = parse_target("sm_90a");
  Compiler& compiler_ = compiler_for(Backend::cuda);
  std::string here_;  // what this process makes
};

TEST_F(NvrtcProcessTest, makes_the_same_bytes_in_one_process_that_ends_with_its_owner) {
  watch();
  {
    const OwnNvrtc own;
    EXPECT_EQ(compile(), here_);
    EXPECT_EQ(compile(), here_);
    ASSERT_EQ(processes().size(), 1u);
    EXPECT_EQ(kill(processes()[0], 0), 0);
  }
  EXPECT_NE(kill(processes()[0], 0), 0);
  EXPECT_EQ(compile(), here_);
  EXPECT_EQ(processes().size(), 1u) << "no owner, no process";
}

TEST_F(NvrtcProcessTest, tells_the_same_resources_and_intermediate_code) {
  const Target newer = parse_target("sm_999");
  const Binary here = compiler_.compile(scale_unit(2), target_);
  const std::string intermediate = compiler_.compile(scale_unit(2), newer).bytes;
  watch();
  const OwnNvrtc own;
  const Binary there = compiler_.compile(scale_unit(2), target_);
  EXPECT_EQ(there.resources.registers, here.resources.registers);
  EXPECT_EQ(there.resources.shared_bytes, here.resources.shared_bytes);
  EXPECT_EQ(compiler_.compile(scale_unit(2), newer).bytes, intermediate);
  EXPECT_EQ(processes().size(), 1u);
}

TEST_F(NvrtcProcessTest, a_thread_has_its_own) {
  watch();
  const OwnNvrtc own;
  std::thread([&] {
    EXPECT_EQ(compile(), here_) << "in this process";
    const OwnNvrtc other;
    EXPECT_EQ(compile(), here_);
  }).join();
  EXPECT_EQ(compile(), here_);
  EXPECT_EQ(processes().size(), 2u);
}

TEST_F(NvrtcProcessTest, wrong_source_gives_the_words_of_the_compiler_and_the_process_goes_on) {
  watch();
  const OwnNvrtc own;
  try {
    compiler_.compile(broken_unit(), target_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::compile);
    EXPECT_NE(std::string(error.what()).find("error: "), std::string::npos) << error.what();
  }
  EXPECT_EQ(compile(), here_);
  EXPECT_EQ(processes().size(), 1u);
}

TEST_F(NvrtcProcessTest, a_helper_that_is_missing_dies_or_lies_costs_nobody_a_kernel) {
  const std::string greeting = "\\024\\0\\0\\0\\0\\0\\0\\0liger-nvrtc-helper 1";
  for (const std::string& script :
       {std::string("exit 1"), std::string("kill -KILL $$"), std::string("echo hello, who are you"),
        fmt::format("printf '{}'", greeting)}) {
    pretend(script);
    const OwnNvrtc own;
    EXPECT_EQ(compile(), here_) << script;
    EXPECT_EQ(compile(), here_) << script;
  }
  set_nvrtc_helper("/nonexistent/helper");
  const OwnNvrtc own;
  EXPECT_EQ(compile(), here_);
}

// As the kernel does when memory is short.
TEST_F(NvrtcProcessTest, a_helper_that_is_killed_between_compiles_costs_nobody_a_kernel) {
  watch();
  const OwnNvrtc own;
  EXPECT_EQ(compile(), here_);
  kill(processes().at(0), SIGKILL);
  EXPECT_EQ(compile(), here_);
  EXPECT_EQ(processes().size(), 1u) << "who failed once is not started again";
}

// Beside the same builtins, with a build id of its own, as a release of the same version has it.
std::string other_build(const std::string& library, const TemporaryFolder& folder) {
  namespace fs = std::filesystem;
  for (const auto& beside : fs::directory_iterator(fs::canonical(library).parent_path()))
    if (beside.path().filename().string().starts_with("libnvrtc-builtins.so"))
      fs::create_symlink(beside.path(), folder / beside.path().filename().string());
  std::stringstream read;
  read << std::ifstream(library, std::ios::binary).rdbuf();
  std::string bytes = read.str();
  const std::string note("\4\0\0\0\024\0\0\0\3\0\0\0GNU\0", 16);
  const size_t at = bytes.find(note);
  if (at == std::string::npos) {  // then its bytes are what tells it apart
    bytes += '\0';
  } else {
    bytes[at + note.size()] ^= 1;
  }
  const std::string copy = folder / "libnvrtc.so";
  std::ofstream(copy, std::ios::binary) << bytes;
  return copy;
}

// An upgrade may have put another NVRTC where this process found its own, and what that makes must
// not lie under a key that names this one.
TEST_F(NvrtcProcessTest, a_helper_with_another_build_is_not_asked) {
  pretend(fmt::format("echo $$ >> {}; exec {} {}", ids_, real_helper,
                      other_build(compiler_.state().path, folder_)));
  const OwnNvrtc own;
  EXPECT_EQ(compile(), here_);
  ASSERT_EQ(processes().size(), 1u);
  EXPECT_NE(kill(processes()[0], 0), 0) << "it was kept";
}

TEST_F(NvrtcProcessTest, threads_of_the_background_but_one_have_them_while_there_is_work) {
  if (std::thread::hardware_concurrency() < 2) GTEST_SKIP() << "needs two cores";
  wait_for_background_compiles();  // those of other tests
  watch();
  constexpr int first = 700, units = 40;
  for (int factor = first; factor < first + units; ++factor)
    compile_in_background(scale_unit(factor), target_);
  EXPECT_EQ(wait_for_background_compiles(), units);
  const std::vector<pid_t> ids = processes();
  EXPECT_GE(ids.size(), 1u);
  for (int attempt = 0; attempt < 500; ++attempt) {
    if (std::ranges::none_of(ids, [](pid_t id) { return kill(id, 0) == 0; })) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  FAIL() << "a process is there without work";
}

TEST_F(NvrtcProcessTest, no_variable_but_those_of_a_key_reaches_it) {
  const std::string found = folder_ / "found";
  pretend(fmt::format("env > {}", found));
  setenv("CUDA_FORCE_PTX_JIT", "1", 1);
  setenv("NVRTC_APPEND_FLAGS", "--fmad=false", 1);
  {
    const OwnNvrtc own;
    compile();
  }
  unsetenv("NVRTC_APPEND_FLAGS");
  unsetenv("CUDA_FORCE_PTX_JIT");
  std::ifstream file(found);
  std::set<std::string> names;
  for (std::string line; std::getline(file, line);) names.insert(line.substr(0, line.find('=')));
  names.erase("LD_LIBRARY_PATH");
  names.erase("PWD");  // the shell's own
  names.erase("_");
  EXPECT_EQ(names, (std::set<std::string>{"LC_ALL", "NVRTC_APPEND_FLAGS", "PATH"}));
}

}  // namespace
}  // namespace liger
