// The publish protocol of files.h. The system calls below stand in for those of the C library, so
// that one test at a time can make them fail.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "base/files.h"
#include "tests/base/temporary_folder.h"
#include "tests/base/tiny_disk.h"

namespace {

struct Faults {
  int link_error = 0;
  bool link_is_made_all_the_same = false;
  int renameat2_error = 0;
  int close_error = 0;
};
thread_local Faults faults;

int fail_with(int error_number) {
  errno = error_number;
  return -1;
}

}  // namespace

extern "C" int link(const char* from, const char* to) noexcept {
  const bool make = faults.link_error == 0 || faults.link_is_made_all_the_same;
  const long answer = make ? ::syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0) : 0;
  return faults.link_error != 0 ? fail_with(faults.link_error) : static_cast<int>(answer);
}

extern "C" int renameat2(int from_folder, const char* from, int to_folder, const char* to,
                         unsigned int flags) noexcept {
  if (faults.renameat2_error != 0) return fail_with(faults.renameat2_error);
  return static_cast<int>(::syscall(SYS_renameat2, from_folder, from, to_folder, to, flags));
}

extern "C" int close(int file) {
  const long answer = ::syscall(SYS_close, file);
  return faults.close_error != 0 ? fail_with(faults.close_error) : static_cast<int>(answer);
}

namespace liger {
namespace {

class PublishProtocol : public testing::Test {
 protected:
  ~PublishProtocol() override { faults = {}; }

  // Nothing but `file` may remain, whatever happened.
  void expect_only_file() { EXPECT_EQ(list_files(folder_.path()), std::vector{file_}); }
  void expect_nothing() { EXPECT_TRUE(list_files(folder_.path()).empty()); }

  const TemporaryFolder folder_;
  const std::string file_ = folder_ / "file";
};

TEST_F(PublishProtocol, first_writer_wins_and_the_second_is_told) {
  EXPECT_EQ(publish_file(file_, "first").outcome, Publish::written);
  EXPECT_EQ(publish_file(file_, "second").outcome, Publish::existed);
  EXPECT_EQ(read_plainly(file_), "first");
  expect_only_file();
}

TEST_F(PublishProtocol, replacing_takes_the_newest_and_an_open_reader_keeps_its_bytes) {
  ASSERT_EQ(replace_file(file_, "first").outcome, Publish::written);
  const int reader = ::open(file_.c_str(), O_RDONLY);
  ASSERT_GE(reader, 0);
  EXPECT_EQ(replace_file(file_, "other").outcome, Publish::written);
  char bytes[5] = {};
  EXPECT_EQ(::read(reader, bytes, 5), 5);
  ::close(reader);
  EXPECT_EQ(std::string_view(bytes, 5), "first");
  EXPECT_EQ(read_plainly(file_), "other");
  expect_only_file();
}

TEST_F(PublishProtocol, files_and_new_folders_are_private) {
  const std::string deep = folder_ / "a/b/file";
  ASSERT_EQ(publish_file(deep, "bytes").outcome, Publish::written);
  struct stat status = {};
  ASSERT_EQ(::lstat(deep.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  ASSERT_EQ(::lstat((folder_ / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700u);
}

TEST_F(PublishProtocol, folder_removed_by_somebody_is_made_again) {
  ASSERT_EQ(publish_file(folder_ / "a/file", "bytes").outcome, Publish::written);
  std::filesystem::remove_all(folder_ / "a");
  EXPECT_EQ(publish_file(folder_ / "a/file", "bytes").outcome, Publish::written);
}

TEST_F(PublishProtocol, without_hard_links_the_first_writer_still_wins) {
  faults.link_error = EPERM;
  EXPECT_EQ(publish_file(file_, "first").outcome, Publish::written);
  EXPECT_EQ(publish_file(file_, "second").outcome, Publish::existed);
  EXPECT_EQ(read_plainly(file_), "first");
  expect_only_file();
}

TEST_F(PublishProtocol, without_links_and_without_renameat2_it_still_publishes) {
  faults.link_error = EPERM;
  for (const int error_number : {ENOSYS, EINVAL}) {
    faults.renameat2_error = error_number;
    std::filesystem::remove(file_);
    EXPECT_EQ(publish_file(file_, "first").outcome, Publish::written);
    EXPECT_EQ(publish_file(file_, "second").outcome, Publish::existed);
    EXPECT_EQ(read_plainly(file_), "first");
    expect_only_file();
  }
}

TEST_F(PublishProtocol, link_that_answers_an_error_but_was_made_counts_as_written) {
  faults.link_is_made_all_the_same = true;
  for (const int error_number : {EIO, EEXIST}) {
    faults.link_error = error_number;
    std::filesystem::remove(file_);
    EXPECT_EQ(publish_file(file_, "bytes").outcome, Publish::written);
    EXPECT_EQ(read_plainly(file_), "bytes");
    expect_only_file();
  }
}

TEST_F(PublishProtocol, quota_told_at_close_leaves_nothing) {
  faults.close_error = EDQUOT;
  for (const auto publish : {publish_file, replace_file}) {
    const PublishResult result = publish(file_, "bytes");
    faults.close_error = 0;
    EXPECT_EQ(result.outcome, Publish::failed);
    EXPECT_NE(result.error.find("quota"), std::string::npos) << result.error;
    expect_nothing();
    faults.close_error = EDQUOT;
  }
}

TEST_F(PublishProtocol, failing_link_and_rename_leave_nothing) {
  faults.link_error = EIO;
  faults.renameat2_error = EIO;
  EXPECT_EQ(publish_file(file_, "bytes").outcome, Publish::failed);
  expect_nothing();
}

TEST_F(PublishProtocol, full_disk_leaves_nothing) {
  TinyDisk disk;
  if (!disk.why_not().empty()) GTEST_SKIP() << disk.why_not();
  const std::string bytes(TinyDisk::too_many_bytes, 'x');
  const PublishResult result = publish_file(disk.path() + "/file", bytes);
  EXPECT_EQ(result.outcome, Publish::failed);
  EXPECT_NE(result.error.find("No space"), std::string::npos) << result.error;
  EXPECT_TRUE(list_files(disk.path()).empty());
}

TEST_F(PublishProtocol, impossible_places_are_a_value_and_no_exception) {
  write_plainly(file_, "");
  EXPECT_EQ(publish_file(file_ + "/below/it", "bytes").outcome, Publish::failed);
  EXPECT_EQ(publish_file("/proc/liger/file", "bytes").outcome, Publish::failed);
  EXPECT_FALSE(publish_file("/proc/liger/file", "bytes").error.empty());
  EXPECT_EQ(replace_file(folder_.path(), "bytes").outcome, Publish::failed);
  expect_only_file();
}

TEST_F(PublishProtocol, clock_of_a_folder_leaves_no_probe) {
  const auto now_seconds = clock_seconds_of(folder_.path());
  ASSERT_TRUE(now_seconds);
  EXPECT_NEAR(static_cast<double>(*now_seconds), static_cast<double>(::time(nullptr)), 60);
  expect_nothing();
  EXPECT_FALSE(clock_seconds_of(folder_ / "absent"));
}

}  // namespace
}  // namespace liger
