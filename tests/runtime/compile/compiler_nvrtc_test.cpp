// NVRTC without a GPU: each architecture that users have, resources from ptxas, and refusals.
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/log.h"
#include "runtime/compile/compiler.h"
#include "runtime/compile/nvrtc_library.h"
#include "tests/runtime/compile/ptx_linker.h"
#include "tests/runtime/compile/sample_unit.h"

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
  struct Case {
    const char* arch;
    const char* advice;
  };
  for (const Case& one : {Case{"sm_20", "nvidia-cuda-nvrtc-cu12"}, {"sm_80a", "newer NVRTC"}}) {
    try {
      compiler_.compile(scale_unit(2), parse_target(one.arch));
      FAIL() << one.arch;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::unsupported) << error.what();
      const std::string words = error.what();
      for (const std::string& part :
           {std::string("Scale: "), compiler_.state().version, std::string(one.arch),
            std::string("sm_80, "), std::string(one.advice), std::string("LIGER_JIT_NVRTC")})
        EXPECT_NE(words.find(part), std::string::npos) << part << " is not in: " << words;
    }
  }
}

TEST_F(NvrtcTest, a_gpu_newer_than_the_compiler_gets_code_that_its_driver_finishes) {
  const Target target = parse_target("sm_999");
  const std::string other = compiler_.intermediate(target);
  ASSERT_TRUE(other.starts_with("compute_")) << other;
  const std::string number = other.substr(std::string("compute_").size());
  EXPECT_NE(compiler_.options(target).find("--gpu-architecture=" + other + " "), std::string::npos);

  const Binary binary = compiler_.compile(scale_unit(2), target);
  EXPECT_NE(binary.bytes.find(".target sm_" + number), std::string::npos) << binary.bytes;
  EXPECT_NE(binary.bytes.find(".entry liger_Scale"), std::string::npos) << binary.bytes;
  EXPECT_EQ(binary.resources.registers, -1);
  if (const auto linker = PtxLinker::named()) {
    EXPECT_EQ(linker->finish(binary.bytes, "sm_" + number).substr(1, 3), "ELF");
  }
  bool told = false;
  for (const std::string& warning : recent_warnings())
    told |= warning.find("sm_999") != std::string::npos && warning.find(other) != std::string::npos;
  EXPECT_TRUE(told);

  const std::string exact = compiler_.intermediate(parse_target("sm_90a"));
  EXPECT_EQ(exact, "") << "it knows this one";
}

TEST(NvrtcStandIn, is_the_first_of_the_newest_generation_up_to_that_of_the_gpu) {
  const std::vector<int> of_12_4 = {50, 52, 60, 70, 72, 75, 80, 86, 87, 89, 90};
  const std::vector<int> of_12_8 = {75, 80, 86, 87, 89, 90, 100, 101, 120};
  EXPECT_EQ(stand_in_for(100, of_12_4), 90);
  EXPECT_EQ(stand_in_for(120, of_12_4), 90);
  EXPECT_EQ(stand_in_for(103, of_12_8), 100);
  EXPECT_EQ(stand_in_for(121, of_12_8), 120);
  EXPECT_EQ(stand_in_for(110, of_12_8), 100);
  EXPECT_EQ(stand_in_for(70, of_12_8), std::nullopt);
  EXPECT_EQ(stand_in_for(90, {}), std::nullopt);
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
