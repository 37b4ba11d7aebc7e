// What is in the artifact key, and what is not.
#include <gtest/gtest.h>

#include <set>

#include "base/text.h"
#include "runtime/kernels.h"
#include "tests/runtime/compile/sample_unit.h"

namespace liger {
namespace {

class KeyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const CompilerState state = compiler_for(Backend::cpu).state();
    if (!state.found) GTEST_SKIP() << state.problem;
  }
  const Target target_{Backend::cpu, "x86-64-v3"};
};

TEST_F(KeyTest, each_input_changes_it) {
  std::set<std::string> hashes;
  hashes.insert(artifact_key(scale_unit(2), target_).hash().hex());
  hashes.insert(artifact_key(scale_unit(3), target_).hash().hex());
  hashes.insert(artifact_key(scale_unit(2), {Backend::cpu, "x86-64-v2"}).hash().hex());
  Unit longer = scale_unit(2);
  longer.expanded += "\n";
  hashes.insert(artifact_key(longer, target_).hash().hex());
  size_t expected = 4;
  if (compiler_for(Backend::cuda).state().found) {
    hashes.insert(artifact_key(scale_unit(2), {Backend::cuda, "sm_90"}).hash().hex());
    hashes.insert(artifact_key(scale_unit(2), {Backend::cuda, "sm_90a"}).hash().hex());
    expected += 2;
  }
  EXPECT_EQ(hashes.size(), expected);
}

// The name of each field as well as its value.
TEST_F(KeyTest, each_field_changed_alone_changes_it) {
  const auto fields = Key::fields_of(artifact_key(scale_unit(2), target_).bytes());
  ASSERT_EQ(fields.size(), 7u);
  std::set<std::string> hashes = {artifact_key(scale_unit(2), target_).hash().hex()};
  for (size_t changed = 0; changed < fields.size(); ++changed) {
    Key other_value, other_name, without;
    for (size_t i = 0; i < fields.size(); ++i) {
      const auto& [name, value] = fields[i];
      other_value.add(name, i == changed ? value + "2" : value);
      other_name.add(i == changed ? name + "2" : name, value);
      if (i != changed) without.add(name, value);
    }
    for (const Key& key : {other_value, other_name, without}) hashes.insert(key.hash().hex());
  }
  EXPECT_EQ(hashes.size(), 1 + 3 * fields.size());
}

TEST_F(KeyTest, names_of_its_fields_are_those_of_the_document) {
  std::vector<std::string> names;
  for (const auto& [name, value] : Key::fields_of(artifact_key(scale_unit(2), target_).bytes())) {
    names.push_back(name);
    EXPECT_FALSE(value.empty()) << name;
    EXPECT_EQ(value.find("/usr"), std::string::npos) << name;
    EXPECT_EQ(value.find("/home"), std::string::npos) << name;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"schema", "backend", "compiler", "arch", "source",
                                             "options", "numerics"}));
}

TEST_F(KeyTest, what_people_read_is_not_in_it) {
  Unit renamed = scale_unit(2);
  renamed.kernel = "Another";
  renamed.text = "shown, not compiled";
  EXPECT_EQ(artifact_key(renamed, target_).bytes(), artifact_key(scale_unit(2), target_).bytes());
}

// A compiler that is found anew each time, in a process whose environment is another one.
TEST_F(KeyTest, home_path_and_language_are_not_in_it) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto tell_key_with = [&](const char* variable, const char* value) {
    if (variable) setenv(variable, value, 1);
    fprintf(stderr, "key=%s", artifact_key(scale_unit(2), target_).hash().hex().c_str());
    exit(0);
  };
  const std::string expected = "key=" + artifact_key(scale_unit(2), target_).hash().hex();
  const std::string longer_path = std::string(getenv("PATH")) + ":/nonexistent";
  EXPECT_EXIT(tell_key_with("HOME", "/nonexistent"), ::testing::ExitedWithCode(0), expected);
  EXPECT_EXIT(tell_key_with("PATH", longer_path.c_str()), ::testing::ExitedWithCode(0), expected);
  EXPECT_EXIT(tell_key_with("LC_ALL", "de_DE.UTF-8"), ::testing::ExitedWithCode(0), expected);
  EXPECT_EXIT(tell_key_with("TMPDIR", "/var/tmp"), ::testing::ExitedWithCode(0), expected);
  EXPECT_EXIT(tell_key_with("USER", "another"), ::testing::ExitedWithCode(0), expected);
}

}  // namespace
}  // namespace liger
