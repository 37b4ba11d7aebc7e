#include "base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

unsigned mode_of(const std::string& path) {
  struct stat status = {};
  return ::lstat(path.c_str(), &status) == 0 ? status.st_mode & 07777 : 0;
}

TEST(Read, takes_a_file_whole) {
  const TemporaryFolder folder;
  const std::string bytes = std::string("a\0b", 3) + std::string(200'000, 'x');
  write_plainly(folder / "file", bytes);
  EXPECT_EQ(read_file(folder / "file"), bytes);
  write_plainly(folder / "empty", "");
  EXPECT_EQ(read_file(folder / "empty"), "");
}

TEST(Read, file_that_claims_no_size_is_read_to_its_end) {
  const auto text = read_file("/proc/self/status");
  ASSERT_TRUE(text);
  EXPECT_NE(text->find("Pid:"), std::string::npos);
}

TEST(Read, what_is_no_regular_file_is_refused_and_never_waited_for) {
  const TemporaryFolder folder;
  write_plainly(folder / "file", "bytes");
  fs::create_symlink(folder / "file", folder / "link");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_FALSE(read_file(folder / "absent"));
  EXPECT_FALSE(read_file(folder / "link"));
  EXPECT_FALSE(read_file(folder / "pipe"));
  EXPECT_FALSE(read_file(folder.path()));
  EXPECT_FALSE(read_file(folder / "file/below"));
}

TEST(Read, file_of_another_user_is_refused) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  const TemporaryFolder folder;
  write_plainly(folder / "file", "bytes");
  ASSERT_EQ(::chown((folder / "file").c_str(), 12345, 12345), 0);
  EXPECT_FALSE(read_file(folder / "file"));
}

TEST(Move, newer_file_of_the_same_name_stays) {
  const TemporaryFolder folder;
  write_plainly(folder / "file", "old");
  const FileStamp stamp = read_stamped_file(folder / "file")->stamp;
  ASSERT_EQ(replace_file(folder / "file", "new").outcome, Publish::written);
  EXPECT_FALSE(move_if_unchanged(folder / "file", stamp, folder / "aside"));
  EXPECT_EQ(read_plainly(folder / "file"), "new");
}

TEST(Move, unchanged_file_goes) {
  const TemporaryFolder folder;
  write_plainly(folder / "file", "old");
  const FileStamp stamp = read_stamped_file(folder / "file")->stamp;
  EXPECT_TRUE(move_if_unchanged(folder / "file", stamp, folder / "aside"));
  EXPECT_FALSE(fs::exists(folder / "file"));
  EXPECT_EQ(read_plainly(folder / "aside"), "old");
}

TEST(Folders, are_made_private_by_many_at_once) {
  const TemporaryFolder folder;
  std::vector<std::thread> threads;
  std::atomic<int> made{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] { made += make_folders(folder / "a/b/c/d/e/f") ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(made, 8);
  EXPECT_EQ(mode_of(folder / "a"), 0700u);
  EXPECT_EQ(mode_of(folder / "a/b/c/d/e/f"), 0700u);
}

TEST(Folders, cannot_be_made_below_a_file_or_in_proc) {
  const TemporaryFolder folder;
  write_plainly(folder / "file", "");
  EXPECT_FALSE(make_folders(folder / "file"));
  EXPECT_FALSE(make_folders(folder / "file/a/b"));
  EXPECT_FALSE(make_folders("/proc/liger"));
  EXPECT_FALSE(make_folders(""));
}

TEST(Folders, may_write_asks_the_nearest_parent_and_makes_nothing) {
  const TemporaryFolder folder;
  write_plainly(folder / "file", "");
  EXPECT_TRUE(may_write_folder(folder.path()));
  EXPECT_TRUE(may_write_folder(folder / "a/b"));
  EXPECT_FALSE(fs::exists(folder / "a"));
  EXPECT_FALSE(may_write_folder(folder / "file"));
  EXPECT_FALSE(may_write_folder(folder / "file/a"));
}

TEST(List, regular_files_below_in_order_and_nothing_through_links) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "b/c");
  write_plainly(folder / "z", "");
  write_plainly(folder / "b/c/.hidden", "");
  fs::create_directory_symlink("/etc", folder / "link");
  EXPECT_EQ(list_files(folder.path()),
            (std::vector<std::string>{folder / "b/c/.hidden", folder / "z"}));
  EXPECT_TRUE(list_files(folder / "absent").empty());
}

TEST(List, removes_one_file) {
  const TemporaryFolder folder;
  write_plainly(folder / "file", "");
  EXPECT_TRUE(remove_file(folder / "file"));
  EXPECT_FALSE(remove_file(folder / "file"));
}

}  // namespace
}  // namespace liger
