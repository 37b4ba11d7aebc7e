// What a user has set changes no byte that a compiler makes; or it is in the key.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/process.h"
#include "base/shared_library.h"
#include "runtime/backends.h"
#include "runtime/kernels.h"
#include "tests/base/temporary_folder.h"
#include "tests/runtime/compile/sample_unit.h"

namespace liger {
namespace {

// A variable of this process for as long as the object lives.
class Set {
 public:
  Set(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Set() {
    if (before_.empty()) {
      unsetenv(name_);
    } else {
      setenv(name_, before_.c_str(), 1);
    }
  }
  Set(const Set&) = delete;

 private:
  const char* name_;
  std::string before_;
};

void write_program(const std::string& path, const std::string& text) {
  std::ofstream(path) << "#!/bin/sh\n" << text << "\n";
  chmod(path.c_str(), 0700);
}

// Standard headers and the assembler are looked for where these variables say.
Unit unit_with_a_standard_header() {
  Unit unit = scale_unit(2);
  unit.expanded = "#include <cmath>\n" + unit.expanded;
  return unit;
}

// A folder that holds a header, an assembler and a linker that spoil every compile.
void spoil(const TemporaryFolder& folder) {
  std::ofstream(folder / "cmath") << "#error not the header that was meant\n";
  for (const char* name : {"as", "ld", "collect2", "cc1plus"})
    write_program(folder / name, "echo not the program that was meant >&2; exit 1");
}

class CompilerEnvironmentTest : public ::testing::Test {
 protected:
  void SetUp() override { ::testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

constexpr const char* variables[] = {
    "CPATH",           "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "COMPILER_PATH",
    "GCC_EXEC_PREFIX", "LIBRARY_PATH",   "CCC_PRINT_ARGS",     "CLANG_CONFIG_FILE_USER_DIR"};

// In a process of its own, because the compiler is chosen once. Ends it with a word for the parent.
[[noreturn]] void compile_in_a_hostile_environment(const char* compiler) {
  setenv("LIGER_JIT_CXX", compiler, 1);
  const Target target = parse_target("cpu");
  const Unit unit = unit_with_a_standard_header();
  Compiler& host = compiler_for(Backend::cpu);
  const std::string wanted = host.compile(unit, target).bytes;
  const TemporaryFolder folder;
  spoil(folder);
  const auto same_with = [&](const char* name, const std::string& value) {
    const Set hostile(name, value);
    try {
      if (host.compile(unit, target).bytes == wanted) return;
      fprintf(stderr, "%s changed the bytes\n", name);
    } catch (const Error& error) {
      fprintf(stderr, "%s: %s\n", name, error.what());
    }
    _exit(1);
  };
  for (const char* name : variables) same_with(name, folder.path() + "/");
  same_with("CCC_OVERRIDE_OPTIONS", "# x-O3 +-O0");
  same_with("SOURCE_DATE_EPOCH", "1");
  same_with("HOME", folder.path());
  fprintf(stderr, "the same");
  _exit(0);
}

TEST_F(CompilerEnvironmentTest, no_variable_changes_what_gcc_makes) {
  if (!find_program({"g++"})) GTEST_SKIP() << "no g++ on PATH";
  EXPECT_EXIT(compile_in_a_hostile_environment("g++"), ::testing::ExitedWithCode(0), "the same");
}

TEST_F(CompilerEnvironmentTest, no_variable_changes_what_clang_makes) {
  if (!find_program({"clang++"})) GTEST_SKIP() << "no clang++ on PATH";
  EXPECT_EXIT(compile_in_a_hostile_environment("clang++"), ::testing::ExitedWithCode(0),
              "the same");
}

std::set<std::string> names_in(const std::string& text) {
  std::istringstream lines(text);
  std::set<std::string> names;
  for (std::string line; std::getline(lines, line);) {
    const size_t end = line.find('=');
    if (end != std::string::npos) names.insert(line.substr(0, end));
  }
  for (const char* of_shell : {"PWD", "SHLVL", "_", "OLDPWD"}) names.erase(of_shell);
  return names;
}

// A compiler whose library is a list of what it found around it.
[[noreturn]] void tell_what_reaches_the_compiler() {
  const TemporaryFolder folder;
  write_program(folder / "c++",
                "case $1 in --version) echo pretended;; -dumpmachine) echo x86_64-linux-gnu;;\n"
                "*) for last; do :; done; env > $last;; esac");
  setenv("LIGER_JIT_CXX", (folder / "c++").c_str(), 1);
  setenv("NIX_CFLAGS_COMPILE", "-O0", 1);
  setenv("CCACHE_PREFIX", "spoil", 1);
  setenv("LD_PRELOAD", "", 1);
  const Binary told = compiler_for(Backend::cpu).compile(scale_unit(2), {Backend::cpu, "x86-64"});
  std::string names;
  for (const std::string& name : names_in(told.bytes)) names += name + " ";
  fprintf(stderr, "found: %s", names.c_str());
  _exit(0);
}

TEST_F(CompilerEnvironmentTest, a_compiler_finds_what_is_listed_and_nothing_else) {
  unsetenv("LD_LIBRARY_PATH");
  EXPECT_EXIT(tell_what_reaches_the_compiler(), ::testing::ExitedWithCode(0),
              "found: HOME LC_ALL PATH TMPDIR $");
}

// Of a helper that answers with what it found around it.
TEST_F(CompilerEnvironmentTest, the_helper_of_hiprtc_finds_what_is_listed_and_nothing_else) {
  const Set hostile("CCC_OVERRIDE_OPTIONS", "+-O0");
  const TemporaryFolder folder;
  write_program(folder / "helper", "env >&2");
  set_hiprtc_helper(folder / "helper");
  std::string told;
  try {
    make_hiprtc_compiler()->compile(scale_unit(2), parse_target("gfx90a"));
  } catch (const Error& error) {
    told = error.what();
  }
  set_hiprtc_helper(own_folder() + "/liger-hiprtc-helper");
  std::set<std::string> names = names_in(told.substr(told.find(": ") + 2));
  names.erase("LD_LIBRARY_PATH");
  EXPECT_EQ(names, (std::set<std::string>{"AMD_COMGR_CACHE", "HOME", "LC_ALL", "PATH", "TMPDIR"}))
      << told;
}

TEST_F(CompilerEnvironmentTest, no_variable_changes_what_hiprtc_makes) {
  set_hiprtc_helper(own_folder() + "/liger-hiprtc-helper");
  Compiler& compiler = compiler_for(Backend::hip);
  if (const CompilerState state = compiler.state(); !state.found) GTEST_SKIP() << state.problem;
  const Target target = parse_target("gfx90a");
  const std::string wanted = compiler.compile(scale_unit(2), target).bytes;
  for (const auto& [name, value] : {std::pair{"CCC_OVERRIDE_OPTIONS", "# x-O3 +-O0"},
                                    {"AMD_OCL_BUILD_OPTIONS_APPEND", "-O0"},
                                    {"AMD_OCL_LINK_OPTIONS_APPEND", "-O0"},
                                    {"AMD_COMGR_SAVE_TEMPS", "1"}}) {
    const Set hostile(name, value);
    EXPECT_EQ(compiler.compile(scale_unit(2), target).bytes, wanted) << name;
  }
}

// In this process, so a list is no help: what NVRTC may read is in the key.
TEST_F(CompilerEnvironmentTest, flags_that_nvrtc_finds_are_in_the_key) {
  Compiler& compiler = compiler_for(Backend::cuda);
  if (const CompilerState state = compiler.state(); !state.found) GTEST_SKIP() << state.problem;
  const Target target = parse_target("sm_90a");
  const std::string key = artifact_key(scale_unit(2), target).bytes();
  {
    const Set hostile("NVRTC_APPEND_FLAGS", "--device-debug");
    EXPECT_NE(artifact_key(scale_unit(2), target).bytes(), key);
  }
  EXPECT_EQ(artifact_key(scale_unit(2), target).bytes(), key);
}

}  // namespace
}  // namespace liger
