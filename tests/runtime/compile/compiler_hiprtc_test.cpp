// hipRTC in its helper process, without a GPU; and helpers that die, hang or talk nonsense.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "base/shared_library.h"
#include "runtime/backends.h"
#include "tests/runtime/compile/sample_unit.h"

namespace liger {
namespace {

class HiprtcTest : public ::testing::Test {
 protected:
  void SetUp() override {
    set_hiprtc_helper(own_folder() + "/liger-hiprtc-helper");
    const CompilerState state = compiler_.state();
    if (!state.found) GTEST_SKIP() << state.problem;
  }
  Compiler& compiler_ = compiler_for(Backend::hip);
};

TEST_F(HiprtcTest, makes_code_for_cdna_and_rdna_without_a_gpu) {
  for (const char* arch : {"gfx90a", "gfx90a:sramecc+:xnack-", "gfx1030"}) {
    const Binary binary = compiler_.compile(scale_unit(2), parse_target(arch));
    EXPECT_EQ(binary.bytes.substr(1, 3), "ELF") << arch;
    EXPECT_GT(binary.resources.registers, 0) << arch;
    EXPECT_EQ(binary.resources.spill_bytes, 0) << arch;
    EXPECT_EQ(binary.resources.stack_bytes, 0) << arch;
    EXPECT_EQ(binary.resources.shared_bytes, 0) << arch;
  }
}

TEST_F(HiprtcTest, shared_memory_and_stack_are_reported) {
  Unit unit;
  unit.kernel = "Sample";
  unit.text =
      "extern \"C\" __global__ void __launch_bounds__(256) liger_Sample(float* x) {\n"
      "__shared__ float s[512]; float local[64];\n"
      "for (int i = 0; i < 64; ++i) local[i] = x[i];\n"
      "s[threadIdx.x] = local[static_cast<int>(x[0]) & 63];\n"
      "__syncthreads(); x[threadIdx.x] = s[255 - threadIdx.x]; }\n";
  unit.expanded = unit.text;
  const Binary binary = compiler_.compile(unit, parse_target("gfx90a"));
  EXPECT_GE(binary.resources.shared_bytes, 1024);
  EXPECT_GE(binary.resources.stack_bytes, 256);
}

// hipRTC 5.2 ends its process for these; this one must live on.
TEST_F(HiprtcTest, unknown_architecture_is_unsupported) {
  try {
    compiler_.compile(scale_unit(2), parse_target("gfx9999"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported) << error.what();
    EXPECT_NE(std::string(error.what()).find("gfx9999"), std::string::npos) << error.what();
  }
  try {
    EXPECT_FALSE(compiler_.compile(scale_unit(2), parse_target("gfx942")).bytes.empty());
  } catch (const Error& error) {  // a release older than this architecture
    EXPECT_EQ(error.kind(), ErrorKind::unsupported) << error.what();
  }
}

TEST_F(HiprtcTest, wrong_source_gives_the_words_of_the_compiler) {
  try {
    compiler_.compile(broken_unit(), parse_target("gfx90a"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::compile);
    EXPECT_NE(std::string(error.what()).find("error: "), std::string::npos) << error.what();
  }
}

TEST_F(HiprtcTest, two_compiles_give_the_same_bytes) {
  const Target target = parse_target("gfx90a");
  EXPECT_EQ(compiler_.compile(scale_unit(2), target).bytes,
            compiler_.compile(scale_unit(2), target).bytes);
}

TEST_F(HiprtcTest, identity_names_builds_but_no_path) {
  const std::string identity = compiler_.identity();
  EXPECT_TRUE(identity.starts_with("hiprtc ")) << identity;
  EXPECT_NE(identity.find("libamd_comgr"), std::string::npos) << identity;
  EXPECT_EQ(identity.find('/'), std::string::npos) << identity;
}

// A new compiler, whose helper is this shell script.
Error error_with_helper(const std::string& script) {
  const std::string path = test_cache_folder() + "/pretended-helper";
  std::ofstream(path) << "#!/bin/sh\n" << script << "\n";
  chmod(path.c_str(), 0700);
  set_hiprtc_helper(path);
  try {
    make_hiprtc_compiler()->compile(scale_unit(2), parse_target("gfx90a"));
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorKind::invalid_argument, "no error");
}

TEST(HiprtcHelperTest, helper_that_dies_talks_nonsense_or_is_missing_is_a_compile_error) {
  const Error died = error_with_helper("kill -ABRT $$");
  EXPECT_EQ(died.kind(), ErrorKind::compile);
  EXPECT_NE(std::string(died.what()).find("signal 6"), std::string::npos) << died.what();

  const Error killed = error_with_helper("kill -KILL $$");
  EXPECT_EQ(killed.kind(), ErrorKind::compile);
  EXPECT_NE(std::string(killed.what()).find("signal 9"), std::string::npos) << killed.what();

  const Error nonsense = error_with_helper("echo hello");
  EXPECT_EQ(nonsense.kind(), ErrorKind::compile);
  EXPECT_NE(std::string(nonsense.what()).find("no reply"), std::string::npos) << nonsense.what();

  set_hiprtc_helper("/nonexistent/helper");
  const CompilerState state = make_hiprtc_compiler()->state();
  EXPECT_FALSE(state.found);
  EXPECT_NE(state.problem.find("/nonexistent/helper is missing"), std::string::npos);
}

// As the kernel does when memory is short.
TEST(HiprtcHelperTest, helper_that_is_killed_at_work_is_an_error_and_the_next_compile_goes_on) {
  const std::string pid_file = test_cache_folder() + "/helper-pid";
  std::thread killer([&] {
    for (int attempt = 0; attempt < 1000; ++attempt) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      pid_t helper = 0;
      if (std::ifstream(pid_file) >> helper && helper > 0) {
        kill(helper, SIGKILL);
        return;
      }
    }
  });
  const auto begin = std::chrono::steady_clock::now();
  const Error killed = error_with_helper("echo $$ > " + pid_file + "; exec sleep 60");
  killer.join();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
  EXPECT_EQ(killed.kind(), ErrorKind::compile);
  EXPECT_NE(std::string(killed.what()).find("signal 9"), std::string::npos) << killed.what();

  set_hiprtc_helper(own_folder() + "/liger-hiprtc-helper");
  const auto compiler = make_hiprtc_compiler();
  if (!compiler->state().found) GTEST_SKIP() << compiler->state().problem;
  EXPECT_FALSE(compiler->compile(scale_unit(2), parse_target("gfx90a")).bytes.empty());
}

}  // namespace
}  // namespace liger
