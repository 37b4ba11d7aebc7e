#include "runtime/compile/target.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace liger {
namespace {

TEST(TargetTest, each_spelling_has_its_backend) {
  for (const char* text : {"sm_80", "sm_90a", "sm_100f", "sm_120"})
    EXPECT_EQ(parse_target(text), (Target{Backend::cuda, text}));
  for (const char* text : {"gfx90a", "gfx1030", "gfx942:sramecc+:xnack-", "gfx906:xnack+"})
    EXPECT_EQ(parse_target(text), (Target{Backend::hip, text}));
  for (const char* text : {"x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "armv8-a"})
    EXPECT_EQ(parse_target(text), (Target{Backend::cpu, text}));
}

TEST(TargetTest, capability_is_the_number_of_an_architecture_of_cuda) {
  EXPECT_EQ(compute_capability(parse_target("sm_90a")), 90);
  EXPECT_EQ(compute_capability(parse_target("sm_120")), 120);
  EXPECT_EQ(compute_capability(parse_target("gfx90a")), 0);
  EXPECT_EQ(compute_capability(parse_target("cpu")), 0);
}

// Code of a higher level would end the process.
TEST(TargetTest, a_cpu_runs_the_code_of_its_level_and_of_lower_ones) {
  using Levels = std::vector<std::string>;
  EXPECT_EQ(levels_run_by(parse_target("x86-64-v3")), (Levels{"x86-64-v3", "x86-64-v2", "x86-64"}));
  EXPECT_EQ(levels_run_by(parse_target("x86-64")), (Levels{"x86-64"}));
  EXPECT_EQ(levels_run_by(parse_target("armv8-a")), (Levels{"armv8-a"}));
  EXPECT_EQ(levels_run_by(parse_target("sm_90a")), Levels{});
}

TEST(TargetTest, cpu_is_a_named_level_of_this_machine) {
  const Target target = parse_target("cpu");
  EXPECT_EQ(target.backend, Backend::cpu);
  EXPECT_EQ(parse_target(target.arch), target);
}

TEST(TargetTest, anything_else_is_refused_with_what_is_allowed) {
  for (const char* text : {"", "sm_", "sm_9", "sm_90b", "sm_9000", "sm_90a ", "gfx", "gfx90A",
                           "gfx90a:", "gfx90a:fast+", "x86-64-v5", "native", "cuda"}) {
    try {
      parse_target(text);
      FAIL() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      EXPECT_NE(std::string(error.what()).find("x86-64-v3"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace liger
