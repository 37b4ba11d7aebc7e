#include "cache/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <thread>

#include "base/counters.h"
#include "base/files.h"
#include "base/log.h"
#include "tests/base/temporary_folder.h"
#include "tests/base/tiny_disk.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

Key key_of(std::string_view name) { return Key().add("name", name); }

// How much each counter has grown since the test began.
uint64_t grown(const std::atomic<uint64_t>& counter, uint64_t before) { return counter - before; }

class StoreTest : public testing::Test {
 protected:
  std::string file_of(const std::string& root, const Key& key) const {
    const std::string hex = key.hash().hex();
    return root + "/v1/a/" + hex.substr(0, 2) + "/" + hex + ".ljk";
  }

  std::string only_file(Store& store) const {
    const std::vector<StoredFile> files = store.list();
    return files.size() == 1 ? files[0].path : "";
  }

  static size_t warnings_about(const std::string& word) {
    size_t found = 0;
    for (const std::string& warning : recent_warnings()) {
      found += warning.find(word) != std::string::npos ? 1 : 0;
    }
    return found;
  }

  static std::string payload_of(Store& store, const Key& key,
                                EntryKind kind = EntryKind::artifact) {
    const auto entry = store.read(kind, key);
    return entry ? entry->payload : "(miss)";
  }

  const TemporaryFolder folder_;
  const std::string root_ = folder_ / "cache";
  const uint64_t hit_disk_ = counters().hit_disk;
  const uint64_t hit_readonly_ = counters().hit_readonly;
  const uint64_t miss_disk_ = counters().miss_disk;
  const uint64_t corrupt_ = counters().corrupt;
  const uint64_t published_ = counters().published;
  const uint64_t publish_failed_ = counters().publish_failed;
};

TEST_F(StoreTest, published_entry_is_read_back_by_another_store) {
  Store writer(root_);
  Store reader(root_);
  EXPECT_FALSE(reader.read(EntryKind::artifact, key_of("k")));
  writer.publish(EntryKind::artifact, key_of("k"), "symbol=run\n", "binary");
  const auto entry = reader.read(EntryKind::artifact, key_of("k"));
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->key_bytes, key_of("k").bytes());
  EXPECT_EQ(entry->meta, "symbol=run\n");
  EXPECT_EQ(entry->payload, "binary");
  EXPECT_EQ(only_file(writer), file_of(root_, key_of("k")));
  EXPECT_EQ(grown(counters().miss_disk, miss_disk_), 1u);
  EXPECT_EQ(grown(counters().hit_disk, hit_disk_), 1u);
  EXPECT_EQ(grown(counters().published, published_), 1u);
}

TEST_F(StoreTest, loser_keeps_the_file_of_the_winner) {
  Store store(root_);
  store.publish(EntryKind::artifact, key_of("k"), "", "winner");
  store.publish(EntryKind::artifact, key_of("k"), "", "loser");
  EXPECT_EQ(payload_of(store, key_of("k")), "winner");
  EXPECT_EQ(grown(counters().published, published_), 1u);
  EXPECT_EQ(grown(counters().publish_failed, publish_failed_), 0u);
}

TEST_F(StoreTest, tune_record_is_replaced_by_the_newest_and_has_its_own_kind) {
  Store store(root_);
  store.publish(EntryKind::tune, key_of("k"), "", "first");
  store.publish(EntryKind::tune, key_of("k"), "", "second");
  EXPECT_EQ(payload_of(store, key_of("k"), EntryKind::tune), "second");
  EXPECT_EQ(payload_of(store, key_of("k")), "(miss)");
}

TEST_F(StoreTest, corrupt_entry_is_moved_aside_and_mended_by_the_next_publish) {
  Store store(root_);
  const Key key = key_of("k");
  const std::string file = file_of(root_, key);
  store.publish(EntryKind::artifact, key, "", "binary");
  const std::string good = read_plainly(file);
  std::string flipped = good;
  flipped.back() = static_cast<char>(flipped.back() ^ 1);
  for (const std::string& bad : {std::string(), good.substr(0, 70), good + "x", flipped}) {
    write_plainly(file, bad);
    EXPECT_EQ(payload_of(store, key), "(miss)");
    EXPECT_FALSE(fs::exists(file));
    EXPECT_EQ(read_plainly(root_ + "/v1/q/" + fs::path(file).filename().string()), bad);
    store.publish(EntryKind::artifact, key, "", "binary");
    EXPECT_EQ(payload_of(store, key), "binary");
  }
  EXPECT_EQ(grown(counters().corrupt, corrupt_), 4u);
  EXPECT_EQ(warnings_about(root_), 1u);
}

TEST_F(StoreTest, wrong_key_bytes_under_the_same_hash_are_a_miss) {
  Store store(root_);
  store.publish(EntryKind::artifact, key_of("other"), "", "other binary");
  const std::string file = file_of(root_, key_of("asked"));
  ASSERT_TRUE(make_folders(fs::path(file).parent_path().string()));
  fs::copy_file(file_of(root_, key_of("other")), file);
  EXPECT_EQ(payload_of(store, key_of("asked")), "(miss)");
  store.publish(EntryKind::artifact, key_of("asked"), "", "asked binary");
  EXPECT_EQ(payload_of(store, key_of("asked")), "asked binary");
  EXPECT_EQ(payload_of(store, key_of("other")), "other binary");
}

TEST_F(StoreTest, entry_planted_by_another_user_or_through_a_link_is_never_read) {
  Store store(root_);
  const std::string file = file_of(root_, key_of("k"));
  store.publish(EntryKind::artifact, key_of("k"), "", "binary");
  fs::rename(file, folder_ / "elsewhere");
  fs::create_symlink(folder_ / "elsewhere", file);
  EXPECT_EQ(payload_of(store, key_of("k")), "(miss)");
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  fs::remove(file);
  fs::rename(folder_ / "elsewhere", file);
  EXPECT_EQ(payload_of(store, key_of("k")), "binary");
  ASSERT_EQ(::chown(file.c_str(), 12345, 12345), 0);
  EXPECT_EQ(payload_of(store, key_of("k")), "(miss)");
}

TEST_F(StoreTest, untrusted_folder_is_refused_with_one_warning_that_says_how_to_mend_it) {
  fs::create_directory(root_);
  ASSERT_EQ(::chmod(root_.c_str(), 0777), 0);
  for (int i = 0; i < 2; ++i) {
    Store store(root_);
    EXPECT_EQ(store.folder(), "");
    EXPECT_NE(store.why_memory_only().find("chmod go-w"), std::string::npos);
    store.publish(EntryKind::artifact, key_of("k"), "", "binary");
    EXPECT_EQ(payload_of(store, key_of("k")), "(miss)");
  }
  EXPECT_TRUE(list_files(root_).empty());
  EXPECT_EQ(warnings_about("chmod go-w '" + root_ + "'"), 1u);
}

TEST_F(StoreTest, folder_that_cannot_be_made_costs_one_warning_and_no_exception) {
  write_plainly(folder_ / "file", "");
  for (const std::string& root : {folder_ / "file/cache", std::string("/proc/liger")}) {
    for (int i = 0; i < 2; ++i) {
      Store store(root);
      EXPECT_EQ(store.folder(), "");
      store.publish(EntryKind::artifact, key_of("k"), "", "binary");
      EXPECT_EQ(payload_of(store, key_of("k")), "(miss)");
      EXPECT_EQ(store.list().size() + store.clear() + store.sweep(), 0u);
    }
    EXPECT_EQ(warnings_about("the cache " + root + " is not used"), 1u);
  }
}

TEST_F(StoreTest, memory_only_misses_silently) {
  const size_t warnings_before = recent_warnings().size();
  Store store("");
  store.publish(EntryKind::artifact, key_of("k"), "", "binary");
  EXPECT_EQ(payload_of(store, key_of("k")), "(miss)");
  EXPECT_EQ(recent_warnings().size(), warnings_before);
  EXPECT_EQ(grown(counters().publish_failed, publish_failed_), 0u);
}

TEST_F(StoreTest, full_disk_costs_one_warning_then_writes_stop_and_reads_go_on) {
  TinyDisk disk;
  if (!disk.why_not().empty()) GTEST_SKIP() << disk.why_not();
  const std::string root = disk.path() + "/cache";
  const size_t full_before = warnings_about("No space left");
  Store store(root);
  store.publish(EntryKind::artifact, key_of("small"), "", "binary");
  const std::string big(TinyDisk::too_many_bytes, 'x');
  for (const char* name : {"big", "bigger", "biggest"}) {
    store.publish(EntryKind::artifact, key_of(name), "", big);
  }
  store.publish(EntryKind::artifact, key_of("also small"), "", "binary");
  EXPECT_EQ(payload_of(store, key_of("small")), "binary");
  EXPECT_EQ(payload_of(store, key_of("also small")), "(miss)");
  EXPECT_EQ(list_files(disk.path()).size(), 1u) << "nothing half written stays";
  EXPECT_EQ(warnings_about(root), 1u);
  EXPECT_EQ(warnings_about("No space left"), full_before + 1);
  EXPECT_EQ(grown(counters().publish_failed, publish_failed_), 4u);
}

TEST_F(StoreTest, disk_that_became_readonly_costs_one_warning_and_is_still_read) {
  TinyDisk disk;
  if (!disk.why_not().empty()) GTEST_SKIP() << disk.why_not();
  const std::string root = disk.path() + "/cache";
  Store(root).publish(EntryKind::artifact, key_of("k"), "", "binary");
  ASSERT_TRUE(disk.make_readonly());
  Store store(root);
  EXPECT_EQ(payload_of(store, key_of("k")), "binary");
  EXPECT_EQ(warnings_about(root), 0u) << "who only reads is not warned";
  store.publish(EntryKind::artifact, key_of("new"), "", "binary");
  store.publish(EntryKind::tune, key_of("new"), "", "times");
  EXPECT_EQ(warnings_about(root), 1u);
}

TEST_F(StoreTest, readonly_layer_is_hit_after_the_own_folder_and_never_written) {
  const std::string site = folder_ / "site";
  Store(site).publish(EntryKind::artifact, key_of("k"), "", "of the site");
  Store store(root_, {folder_ / "absent", site});
  EXPECT_EQ(payload_of(store, key_of("k")), "of the site");
  EXPECT_EQ(grown(counters().hit_readonly, hit_readonly_), 1u);
  store.publish(EntryKind::artifact, key_of("k"), "", "own");
  EXPECT_EQ(payload_of(store, key_of("k")), "own");
  EXPECT_EQ(store.list().size(), 2u);

  fs::create_directories(fs::path(file_of(site, key_of("bad"))).parent_path());
  write_plainly(file_of(site, key_of("bad")), "damaged");
  EXPECT_EQ(payload_of(store, key_of("bad")), "(miss)");
  EXPECT_TRUE(fs::exists(file_of(site, key_of("bad"))));
  EXPECT_EQ(store.clear(), 1u);
  EXPECT_EQ(list_files(site).size(), 2u);
}

TEST_F(StoreTest, readonly_layer_serves_without_an_own_folder) {
  const std::string site = folder_ / "site";
  Store(site).publish(EntryKind::artifact, key_of("k"), "", "of the site");
  Store store("", {site});
  EXPECT_EQ(payload_of(store, key_of("k")), "of the site");
}

TEST_F(StoreTest, untrusted_readonly_layer_is_left_out) {
  const std::string site = folder_ / "site";
  Store(site).publish(EntryKind::artifact, key_of("k"), "", "of the site");
  ASSERT_EQ(::chmod(site.c_str(), 0777), 0);
  Store store(root_, {site});
  EXPECT_EQ(payload_of(store, key_of("k")), "(miss)");
  EXPECT_EQ(warnings_about("read-only cache " + site), 1u);
}

TEST_F(StoreTest, list_shows_good_and_damaged_files_and_clear_removes_all) {
  Store store(root_);
  store.publish(EntryKind::artifact, key_of("a"), "", "binary");
  store.publish(EntryKind::tune, key_of("t"), "", "times");
  store.publish(EntryKind::artifact, key_of("bad"), "", "binary");
  write_plainly(file_of(root_, key_of("bad")), "damaged");
  const std::vector<StoredFile> files = store.list();
  ASSERT_EQ(files.size(), 3u);
  for (const StoredFile& file : files) {
    const bool damaged = file.path == file_of(root_, key_of("bad"));
    EXPECT_EQ(file.entry.has_value(), !damaged);
    EXPECT_EQ(file.size_bytes, fs::file_size(file.path));
    EXPECT_EQ(file.kind, file.path.ends_with(".ljt") ? EntryKind::tune : EntryKind::artifact);
    EXPECT_GT(file.modified_seconds, 0);
  }
  EXPECT_EQ(store.clear(), 3u);
  EXPECT_TRUE(list_files(root_).empty());
  store.publish(EntryKind::artifact, key_of("a"), "", "binary");
  EXPECT_EQ(payload_of(store, key_of("a")), "binary");
}

TEST_F(StoreTest, sweep_removes_old_temporaries_only) {
  Store store(root_);
  store.publish(EntryKind::artifact, key_of("k"), "", "binary");
  const std::string near = fs::path(only_file(store)).parent_path().string();
  write_plainly(near + "/.tmp-old", "half");
  write_plainly(near + "/.tmp-new", "half");
  const timeval two_hours_ago[2] = {{::time(nullptr) - 7200, 0}, {::time(nullptr) - 7200, 0}};
  ASSERT_EQ(::utimes((near + "/.tmp-old").c_str(), two_hours_ago), 0);
  ASSERT_EQ(::utimes(only_file(store).c_str(), two_hours_ago), 0);
  EXPECT_EQ(store.sweep(), 1u);
  EXPECT_FALSE(fs::exists(near + "/.tmp-old"));
  EXPECT_TRUE(fs::exists(near + "/.tmp-new"));
  EXPECT_EQ(payload_of(store, key_of("k")), "binary");
}

TEST_F(StoreTest, cache_removed_while_in_use_is_built_up_again) {
  Store store(root_);
  store.publish(EntryKind::artifact, key_of("k"), "", "binary");
  fs::remove_all(root_);
  EXPECT_EQ(payload_of(store, key_of("k")), "(miss)");
  store.publish(EntryKind::artifact, key_of("k"), "", "binary");
  EXPECT_EQ(payload_of(store, key_of("k")), "binary");
}

TEST_F(StoreTest, two_stores_and_many_threads_share_one_folder) {
  Store first(root_);
  Store second(root_);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      Store& store = i % 2 == 0 ? first : second;
      for (int j = 0; j < 50; ++j) {
        const std::string name = std::to_string(j);
        store.publish(EntryKind::artifact, key_of(name), "", name);
        store.publish(EntryKind::tune, key_of(name), "", name);
        wrong += payload_of(store, key_of(name)) != name ? 1 : 0;
        wrong += payload_of(store, key_of(name), EntryKind::tune) != name ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(list_files(root_).size(), 100u);
  EXPECT_EQ(grown(counters().corrupt, corrupt_), 0u);
  EXPECT_EQ(grown(counters().published, published_), 50u + 8u * 50u);
}

}  // namespace
}  // namespace liger
