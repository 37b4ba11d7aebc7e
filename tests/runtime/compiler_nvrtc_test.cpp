// NVRTC without a GPU: each architecture that users have, resources from ptxas, and refusals.
#include <gtest/gtest.h>

#include "base/error.h"
#include "runtime/compiler.h"
#include "tests/runtime/sample_unit.h"

namespace liger {
namespace {

class NvrtcTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const CompilerState state = compiler_.state();
    if (!state.found) GTEST_SKIP() << state.problem;
  }
  Compiler& compiler_ = compiler_for(Backend::cuda);
};

Unit kernel_unit(const std::string& body) {
  Unit unit;
  unit.kernel = "Sample";
  unit.text = "extern \"C\" __global__ void __launch_bounds__(256) liger_Sample(float* x) {\n" +
              body + "\n}\n";
  unit.expanded = unit.text;
  return unit;
}

TEST_F(NvrtcTest, makes_code_for_each_architecture_without_a_gpu) {
  std::vector<const char*> architectures = {"sm_80", "sm_90a"};
  if (const std::string version = compiler_.state().version; version >= "NVRTC 12.8")
    architectures.insert(architectures.end(), {"sm_100a", "sm_120", "sm_120a"});
  for (const char* arch : architectures) {
    const Binary binary = compiler_.compile(scale_unit(2), parse_target(arch));
    EXPECT_EQ(binary.bytes.substr(1, 3), "ELF") << arch;
    EXPECT_GT(binary.resources.registers, 0) << arch;
    EXPECT_EQ(binary.resources.spill_bytes, 0) << arch;
    EXPECT_EQ(binary.resources.stack_bytes, 0) << arch;
    EXPECT_EQ(binary.resources.shared_bytes, 0) << arch;
    EXPECT_GT(binary.compile_ms, 0) << arch;
  }
}

TEST_F(NvrtcTest, shared_memory_and_stack_are_reported) {
  const Unit unit = kernel_unit(
      "__shared__ float s[256]; float local[64]; const int n = int(x[0]);\n"
      "for (int i = 0; i < 64; ++i) local[i] = x[i * n];\n"
      "s[threadIdx.x] = local[n & 63]; __syncthreads();\n"
      "for (int i = 0; i < 64; ++i) x[i * 7] = local[i] * s[(threadIdx.x + i) & 255];");
  const Binary binary = compiler_.compile(unit, parse_target("sm_80"));
  EXPECT_EQ(binary.resources.shared_bytes, 1024);
  EXPECT_EQ(binary.resources.stack_bytes, 256);
  EXPECT_EQ(binary.resources.spill_bytes, 0);
}

TEST_F(NvrtcTest, spills_are_reported) {
  Unit unit = kernel_unit(
      "float v[96];\n#pragma unroll\nfor (int i = 0; i < 96; ++i) v[i] = x[i * 256];\n"
      "__syncthreads();\n#pragma unroll\nfor (int i = 0; i < 96; ++i) x[i * 512] = v[95 - i];");
  unit.expanded.replace(unit.expanded.find("(256)"), 5, "(1024, 2)");  // at most 32 registers
  const Binary binary = compiler_.compile(unit, parse_target("sm_80"));
  EXPECT_LE(binary.resources.registers, 32);
  EXPECT_GT(binary.resources.spill_bytes, 0);
}

TEST_F(NvrtcTest, two_compiles_give_the_same_bytes) {
  const Target target = parse_target("sm_90a");
  EXPECT_EQ(compiler_.compile(scale_unit(2), target).bytes,
            compiler_.compile(scale_unit(2), target).bytes);
}

TEST_F(NvrtcTest, wrong_source_gives_the_words_of_the_compiler_and_the_unit) {
  try {
    compiler_.compile(broken_unit(), parse_target("sm_90a"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::compile);
    const std::string words = error.what();
    EXPECT_NE(words.find("error: "), std::string::npos) << words;
    EXPECT_NE(words.find("liger_Scale"), std::string::npos) << words;
    EXPECT_NE(words.find("sm_90a"), std::string::npos) << words;
  }
}

TEST_F(NvrtcTest, unknown_architecture_is_unsupported_and_the_known_ones_are_listed) {
  for (const char* arch : {"sm_999", "sm_80a"}) {
    try {
      compiler_.compile(scale_unit(2), parse_target(arch));
      FAIL() << arch;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::unsupported) << error.what();
      EXPECT_NE(std::string(error.what()).find("sm_80, "), std::string::npos) << error.what();
    }
  }
}

TEST_F(NvrtcTest, identity_names_version_and_builds_but_no_path) {
  const std::string identity = compiler_.identity();
  EXPECT_TRUE(identity.starts_with("nvrtc 1")) << identity;
  EXPECT_NE(identity.find(" build "), std::string::npos) << identity;
  EXPECT_EQ(identity.find(" builtins none"), std::string::npos) << identity;
  EXPECT_EQ(identity.find('/'), std::string::npos) << identity;
}

}  // namespace
}  // namespace liger
