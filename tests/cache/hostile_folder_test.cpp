// Other users of the machine: what they could have written is never read. Run as root, which can
// become them.
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "base/counters.h"
#include "cache/entry.h"
#include "cache/store.h"
#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

constexpr uid_t owner_id = 12345;
constexpr uid_t stranger_id = 23456;

Key key() { return Key().add("name", "wanted"); }

// Does it in a process of that user; true if it gave true.
bool as_user(uid_t user, const std::function<bool()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(user, user, user) != 0 ||
        ::setresuid(user, user, user) != 0) {
      ::_exit(2);
    }
    ::_exit(work() ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

class HostileFolder : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can become other users";
    // A place as /tmp is: everybody may make things there, and nobody may touch those of others.
    ASSERT_EQ(::chmod(folder_.path().c_str(), 01777), 0);
  }

  static std::string file_in(const std::string& root) {
    const std::string hex = key().hash().hex();
    return root + "/v1/a/" + hex.substr(0, 2) + "/" + hex + ".ljk";
  }

  // A whole and verifying entry of the key that is wanted, with another payload.
  static bool plant(const std::string& root) {
    std::error_code trouble;
    fs::create_directories(fs::path(file_in(root)).parent_path(), trouble);
    write_plainly(file_in(root), encode_entry(key().bytes(), "", "evil"));
    return read_plainly(file_in(root)).ends_with("evil");
  }

  // "(miss)" or the payload, as the owner reads it in a process that starts now.
  static bool owner_gets(const std::string& root, std::string_view expected) {
    return as_user(owner_id, [&] {
      const auto entry = Store(root).read(EntryKind::artifact, key());
      return (entry ? entry->payload : "(miss)") == expected;
    });
  }

  bool make_cache_of(uid_t user) const {
    return as_user(user, [&] {
      Store(root_).publish(EntryKind::artifact, key(), "", "good");
      return fs::exists(file_in(root_));
    });
  }

  const TemporaryFolder folder_;
  const std::string root_ = folder_ / "cache";
};

TEST_F(HostileFolder, cache_of_another_user_is_not_read) {
  ASSERT_TRUE(as_user(stranger_id, [&] { return plant(root_); }));
  ASSERT_TRUE(as_user(stranger_id, [&] { return ::chmod(root_.c_str(), 0755) == 0; }));
  EXPECT_TRUE(owner_gets(root_, "(miss)"));
}

TEST_F(HostileFolder, link_made_by_another_user_is_not_followed) {
  ASSERT_TRUE(make_cache_of(owner_id));
  const std::string link = folder_ / "link";
  ASSERT_TRUE(as_user(stranger_id, [&] { return ::symlink(root_.c_str(), link.c_str()) == 0; }));
  EXPECT_TRUE(owner_gets(link, "(miss)"));
  EXPECT_TRUE(owner_gets(root_, "good"));
}

TEST_F(HostileFolder, world_writable_folder_is_not_read_however_deep) {
  ASSERT_TRUE(make_cache_of(owner_id));
  for (const std::string& part : {root_, root_ + "/v1"}) {
    ASSERT_EQ(::chmod(part.c_str(), 0777), 0);
    EXPECT_TRUE(owner_gets(root_, "(miss)")) << part;
    ASSERT_EQ(::chmod(part.c_str(), 0700), 0);
    EXPECT_TRUE(owner_gets(root_, "good")) << part;
  }
}

TEST_F(HostileFolder, entry_planted_by_another_user_is_not_read_and_is_mended) {
  ASSERT_TRUE(make_cache_of(owner_id));
  // Someone opened the folder for a moment, which is over when the next process starts.
  const std::string kind = fs::path(file_in(root_)).parent_path().string();
  for (const std::string& part : {root_, root_ + "/v1", root_ + "/v1/a", kind}) {
    ASSERT_EQ(::chmod(part.c_str(), 0777), 0);
  }
  ASSERT_TRUE(
      as_user(stranger_id, [&] { return ::unlink(file_in(root_).c_str()) == 0 && plant(root_); }));
  for (const std::string& part : {root_, root_ + "/v1", root_ + "/v1/a", kind}) {
    ASSERT_EQ(::chmod(part.c_str(), 0700), 0);
  }
  EXPECT_TRUE(owner_gets(root_, "(miss)"));
  ASSERT_TRUE(as_user(owner_id, [&] {
    Store store(root_);
    store.read(EntryKind::artifact, key());
    store.publish(EntryKind::artifact, key(), "", "good");
    return true;
  }));
  EXPECT_TRUE(owner_gets(root_, "good"));
}

TEST_F(HostileFolder, entry_that_others_may_write_is_not_read_and_is_mended) {
  ASSERT_TRUE(make_cache_of(owner_id));
  for (const mode_t mode : {0620, 0602, 0666}) {
    ASSERT_EQ(::chmod(file_in(root_).c_str(), mode), 0);
    EXPECT_TRUE(owner_gets(root_, "(miss)")) << mode;
    ASSERT_TRUE(make_cache_of(owner_id));
    EXPECT_TRUE(owner_gets(root_, "good")) << mode;
  }
}

// A process that found everything in order reads on while the folder is replaced behind its back.
TEST_F(HostileFolder, folder_swapped_during_the_run_is_not_read) {
  ASSERT_TRUE(make_cache_of(owner_id));
  const std::string evil = folder_ / "evil";
  ASSERT_TRUE(as_user(stranger_id, [&] { return plant(evil); }));
  ASSERT_TRUE(as_user(stranger_id, [&] { return ::chmod(evil.c_str(), 0755) == 0; }));
  int ready[2], go[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(go), 0);
  const pid_t reader = ::fork();
  if (reader == 0) {
    if (::setresgid(owner_id, owner_id, owner_id) != 0 ||
        ::setresuid(owner_id, owner_id, owner_id) != 0) {
      ::_exit(2);
    }
    Store store(root_);
    const auto before = store.read(EntryKind::artifact, key());
    char byte = 0;
    if (::write(ready[1], "r", 1) != 1 || ::read(go[0], &byte, 1) != 1) ::_exit(3);
    const auto after = store.read(EntryKind::artifact, key());
    store.publish(EntryKind::artifact, key(), "", "good");
    ::_exit(before && before->payload == "good" && !after ? 0 : 1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  fs::rename(root_, folder_ / "moved away");
  fs::create_directory_symlink(evil, root_);
  ASSERT_EQ(::write(go[1], "g", 1), 1);
  int status = -1;
  ::waitpid(reader, &status, 0);
  EXPECT_EQ(status, 0);
  for (const int end : {ready[0], ready[1], go[0], go[1]}) ::close(end);
  EXPECT_TRUE(read_plainly(file_in(evil)).ends_with("evil")) << "theirs was left as it was";
}

}  // namespace
}  // namespace liger
