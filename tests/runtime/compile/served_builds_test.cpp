// Which builds of which levels serve a CPU without a compiler, from the keys alone.
#include "runtime/compile/served_builds.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "cache/key.h"

namespace liger {
namespace {

std::string key(const char* backend, const char* compiler, const char* arch, const char* source) {
  Key key;
  key.add("schema", "1").add("backend", backend).add("compiler", compiler).add("arch", arch);
  return key.add("source", source).bytes();
}

std::vector<std::string> order(const std::vector<std::string>& keys, const char* arch) {
  std::vector<std::string> said;
  for (const ServedBuild& build : builds_among(keys, {Backend::cpu, arch}))
    said.push_back(build.target.arch + " " + build.compiler + " " + std::to_string(build.entries));
  return said;
}

const std::vector<std::string> keys = {
    key("cpu", "host b", "x86-64-v3", "1"),
    key("cpu", "host a", "x86-64-v3", "1"),
    key("cpu", "host c", "x86-64-v3", "1"),
    key("cpu", "host c", "x86-64-v3", "2"),
    key("cpu", "host d", "x86-64-v2", "1"),
    key("cpu", "host d", "x86-64-v2", "2"),
    key("cpu", "host d", "x86-64-v2", "3"),
    key("cpu", "host e", "x86-64-v4", "1"),
    key("cpu", "host f", "armv8-a", "1"),
    key("cuda", "nvrtc g", "sm_90a", "1"),
    key("cpu", "host a", "x86-64-v3", "1"),  // the same in another layer
    "no key at all",
};

TEST(ServedBuildsTest, the_highest_level_that_runs_comes_first_then_most_entries_then_the_name) {
  const std::vector<std::string> wanted = {"x86-64-v3 host c 2", "x86-64-v3 host a 1",
                                           "x86-64-v3 host b 1", "x86-64-v2 host d 3"};
  EXPECT_EQ(order(keys, "x86-64-v3"), wanted);
  EXPECT_EQ(order(keys, "armv8-a"), (std::vector<std::string>{"armv8-a host f 1"}));
}

TEST(ServedBuildsTest, code_of_a_higher_level_never_serves) {
  for (const char* arch : {"x86-64", "x86-64-v2", "x86-64-v3"}) {
    for (const std::string& build : order(keys, arch))
      EXPECT_EQ(build.find("x86-64-v4"), std::string::npos) << arch << ": " << build;
  }
  EXPECT_EQ(order(keys, "x86-64"), std::vector<std::string>{});
  EXPECT_EQ(order(keys, "x86-64-v4").front(), "x86-64-v4 host e 1");
}

TEST(ServedBuildsTest, the_order_of_the_keys_changes_nothing) {
  std::vector<std::string> reversed = keys;
  std::reverse(reversed.begin(), reversed.end());
  EXPECT_EQ(order(reversed, "x86-64-v4"), order(keys, "x86-64-v4"));
}

TEST(ServedBuildsTest, a_gpu_has_its_compiler_from_elsewhere) {
  EXPECT_TRUE(builds_among(keys, {Backend::cuda, "sm_90a"}).empty());
}

}  // namespace
}  // namespace liger
