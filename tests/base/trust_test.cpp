// distrust_reason() of files.h.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

class Trust : public testing::Test {
 protected:
  Trust() {
    fs::create_directory(folder_ / "own");
    ::chmod((folder_ / "own").c_str(), 0700);
  }

  std::string reason(std::string_view name) const { return distrust_reason(folder_ / name); }

  static void expect_says(const std::string& reason, std::string_view word) {
    EXPECT_NE(reason.find(word), std::string::npos) << "reason: " << reason;
  }

  const TemporaryFolder folder_;
};

TEST_F(Trust, own_folder_and_what_will_be_made_in_it) {
  EXPECT_EQ(reason("own"), "");
  EXPECT_EQ(reason("own/not/there/yet"), "");
  EXPECT_EQ(reason("own/../own/./"), "");
  EXPECT_EQ(distrust_reason("/"), "");
}

TEST_F(Trust, folder_that_others_may_write_is_refused_with_the_command_that_mends_it) {
  for (const mode_t mode : {0770, 0707, 0777}) {
    ASSERT_EQ(::chmod((folder_ / "own").c_str(), mode), 0);
    expect_says(reason("own"), "chmod go-w '" + folder_ / "own" + "'");
    expect_says(reason("own/below"), "chmod go-w");
  }
}

TEST_F(Trust, sticky_folder_is_good_as_a_parent) {
  ASSERT_EQ(::chmod((folder_ / "own").c_str(), 01777), 0);
  EXPECT_EQ(reason("own/mine"), "");
}

TEST_F(Trust, folder_of_another_user_is_refused) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a folder away";
  ASSERT_EQ(::chown((folder_ / "own").c_str(), 12345, 12345), 0);
  expect_says(reason("own"), "12345");
  expect_says(reason("own/below"), "chown");
}

TEST_F(Trust, link_that_leads_out_of_trust_is_refused) {
  fs::create_directory(folder_ / "open");
  fs::create_directory(folder_ / "open/inner");
  ASSERT_EQ(::chmod((folder_ / "open").c_str(), 0777), 0);
  fs::create_directory_symlink(folder_ / "open/inner", folder_ / "own/absolute");
  fs::create_directory_symlink("../open/inner", folder_ / "own/relative");
  expect_says(reason("own/absolute"), "chmod go-w");
  expect_says(reason("own/relative/below"), "chmod go-w");
}

TEST_F(Trust, link_between_trusted_folders_is_good) {
  fs::create_directory(folder_ / "own/real");
  fs::create_directory_symlink("../own/real", folder_ / "own/link");
  EXPECT_EQ(reason("own/link/below"), "");
}

TEST_F(Trust, link_of_another_user_is_refused_wherever_it_leads) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a link away";
  fs::create_directory_symlink(folder_ / "own", folder_ / "link");
  ASSERT_EQ(::lchown((folder_ / "link").c_str(), 12345, 12345), 0);
  expect_says(reason("link"), "another user");
}

TEST_F(Trust, loop_of_links_ends) {
  fs::create_directory_symlink("b", folder_ / "a");
  fs::create_directory_symlink("a", folder_ / "b");
  expect_says(reason("a/c"), "leads nowhere");
}

TEST_F(Trust, file_in_place_of_a_folder_is_refused) {
  write_plainly(folder_ / "own/file", "");
  expect_says(reason("own/file"), "not a folder");
  expect_says(reason("own/file/below"), "not a folder");
}

}  // namespace
}  // namespace liger
