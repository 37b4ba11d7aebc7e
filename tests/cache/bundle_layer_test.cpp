// Bundles as layers of a store, and importing them into one.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/counters.h"
#include "base/files.h"
#include "base/log.h"
#include "cache/bundle.h"
#include "cache/store.h"
#include "tests/base/temporary_folder.h"
#include "tests/base/tiny_disk.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

Key key_of(std::string_view name) { return Key().add("name", name); }

size_t warnings_about(const std::string& word) {
  size_t found = 0;
  for (const std::string& warning : recent_warnings()) {
    found += warning.find(word) != std::string::npos ? 1 : 0;
  }
  return found;
}

class BundleLayerTest : public testing::Test {
 protected:
  BundleLayerTest() { write_plainly(bundle_, bytes_); }

  static std::string payload_of(Store& store, const Key& key,
                                EntryKind kind = EntryKind::artifact) {
    const auto entry = store.read(kind, key);
    return entry ? entry->payload : "(miss)";
  }

  const TemporaryFolder folder_;
  const std::string root_ = folder_ / "cache";
  const std::string bundle_ = folder_ / "kernels.ljb";
  const std::string bytes_ =
      encode_bundle({{EntryKind::artifact, {key_of("a").bytes(), "symbol=run\n", "kernel a"}},
                     {EntryKind::artifact, {key_of("b").bytes(), "symbol=run\n", "kernel b"}},
                     {EntryKind::tune, {key_of("t").bytes(), "", "times"}}},
                    "liger_jit=0.1.0\n");
  const uint64_t hit_readonly_ = counters().hit_readonly;
  const uint64_t corrupt_ = counters().corrupt;
};

TEST_F(BundleLayerTest, bundle_is_read_after_the_own_folder_and_never_written) {
  Store store(root_, {bundle_});
  EXPECT_EQ(payload_of(store, key_of("a")), "kernel a");
  EXPECT_EQ(payload_of(store, key_of("t"), EntryKind::tune), "times");
  EXPECT_EQ(payload_of(store, key_of("t")), "(miss)");
  EXPECT_EQ(payload_of(store, key_of("c")), "(miss)");
  EXPECT_EQ(counters().hit_readonly - hit_readonly_, 2u);
  store.publish(EntryKind::artifact, key_of("a"), "", "own");
  EXPECT_EQ(payload_of(store, key_of("a")), "own");
  EXPECT_EQ(store.list().size(), 4u);
  EXPECT_EQ(store.find(EntryKind::artifact, key_of("b").hash())->payload, "kernel b");
  store.clear();
  store.prune(0);
  EXPECT_EQ(read_plainly(bundle_), bytes_);
}

TEST_F(BundleLayerTest, bundle_serves_without_an_own_folder_and_beside_a_folder) {
  const std::string site = folder_ / "site";
  Store(site).publish(EntryKind::artifact, key_of("a"), "", "of the site");
  Store store("", {site, bundle_});
  EXPECT_EQ(payload_of(store, key_of("a")), "of the site") << "the first layer wins";
  EXPECT_EQ(payload_of(store, key_of("b")), "kernel b");
}

TEST_F(BundleLayerTest, damaged_frame_is_a_miss_with_one_warning_and_the_others_serve_on) {
  const BundleIndex index = parse_bundle(bytes_);
  const BundleRecord& hurt = *index.find(EntryKind::artifact, key_of("a").hash());
  std::string bytes = bytes_;
  for (uint64_t i = 0; i < hurt.frame_bytes; ++i) bytes[hurt.frame_at + i] ^= 0x55;
  write_plainly(bundle_, bytes);
  Store store(root_, {bundle_});
  EXPECT_EQ(payload_of(store, key_of("a")), "(miss)");
  EXPECT_EQ(payload_of(store, key_of("a")), "(miss)");
  EXPECT_EQ(payload_of(store, key_of("b")), "kernel b");
  EXPECT_EQ(counters().corrupt - corrupt_, 2u);
  EXPECT_EQ(warnings_about(bundle_ + " is damaged"), 1u);
  store.publish(EntryKind::artifact, key_of("a"), "", "made anew");
  EXPECT_EQ(payload_of(store, key_of("a")), "made anew");
}

TEST_F(BundleLayerTest, bundle_that_is_cut_off_while_in_use_is_a_miss) {
  Store store(root_, {bundle_});
  ASSERT_EQ(::truncate(bundle_.c_str(), 80), 0);
  EXPECT_EQ(payload_of(store, key_of("a")), "(miss)");
  EXPECT_EQ(payload_of(store, key_of("b")), "(miss)");
}

TEST_F(BundleLayerTest, bundle_that_is_replaced_while_in_use_serves_what_it_held) {
  Store store(root_, {bundle_});
  fs::remove(bundle_);
  write_plainly(bundle_, "another file");
  EXPECT_EQ(payload_of(store, key_of("a")), "kernel a");
}

TEST_F(BundleLayerTest, damaged_absent_or_untrusted_bundle_is_left_out_with_one_warning) {
  write_plainly(folder_ / "damaged.ljb", bytes_.substr(0, 100));
  write_plainly(folder_ / "open.ljb", bytes_);
  ASSERT_EQ(::chmod((folder_ / "open.ljb").c_str(), 0666), 0);
  fs::create_directory(folder_ / "anybody");
  write_plainly(folder_ / "anybody/in.ljb", bytes_);
  ASSERT_EQ(::chmod((folder_ / "anybody").c_str(), 0777), 0);
  const std::vector<std::pair<std::string, std::string>> cases = {
      {folder_ / "damaged.ljb", "cut off"},
      {folder_ / "absent.ljb", "No such file"},
      {folder_ / "open.ljb", "chmod go-w"},
      {folder_ / "anybody/in.ljb", "chmod go-w"}};
  for (const auto& [path, reason] : cases) {
    Store store(root_, {path});
    EXPECT_EQ(payload_of(store, key_of("a")), "(miss)") << path;
    EXPECT_NE(store.readonly_layers().at(0).problem.find(reason), std::string::npos) << path;
    EXPECT_EQ(warnings_about("read-only cache " + path), 1u);
  }
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  ASSERT_EQ(::chown(bundle_.c_str(), 12345, 12345), 0);
  Store store(root_, {bundle_});
  EXPECT_EQ(payload_of(store, key_of("a")), "(miss)");
}

TEST_F(BundleLayerTest, import_mends_an_entry_that_others_may_write) {
  Store store(root_);
  store.publish(EntryKind::artifact, key_of("a"), "", "who knows");
  const std::string path = store.list().at(0).path;
  ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
  EXPECT_FALSE(store.find(EntryKind::artifact, key_of("a").hash()));
  EXPECT_EQ(store.import_bundle(bundle_).existed, 0u);
  EXPECT_EQ(payload_of(store, key_of("a")), "kernel a");
}

TEST_F(BundleLayerTest, readonly_store_changes_nothing_whatever_it_is_asked) {
  {
    Store store(root_);
    store.publish(EntryKind::artifact, key_of("a"), "", "kept");
    store.publish(EntryKind::artifact, key_of("b"), "", "damaged");
    const std::string path = store.list().at(1).path;
    write_plainly(path, "damaged");
    fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(48));
  }
  const auto tree = [&] {
    std::map<std::string, fs::file_time_type> found;
    for (const auto& one : fs::recursive_directory_iterator(root_))
      found[one.path()] = one.last_write_time();
    return found;
  };
  for (const auto& [path, time] : tree())
    if (fs::is_regular_file(path)) fs::last_write_time(path, time - std::chrono::hours(48));
  const auto before = tree();
  Store store(root_, {}, {.readonly = true, .prune_to_bytes = 1});
  EXPECT_EQ(payload_of(store, key_of("a")) == "kept" || payload_of(store, key_of("b")) == "damaged",
            true);
  payload_of(store, key_of("b"));
  store.publish(EntryKind::artifact, key_of("c"), "", "new");
  EXPECT_NE(store.import_bundle(bundle_).problem.find("readonly"), std::string::npos);
  EXPECT_EQ(store.clear() + store.sweep() + store.prune(0).removed_files, 0u);
  EXPECT_TRUE(store.repair().empty());
  EXPECT_EQ(tree(), before);
}

TEST_F(BundleLayerTest, link_is_followed_if_it_stands_in_a_trusted_folder) {
  fs::create_directory(folder_ / "site");
  fs::create_symlink("../kernels.ljb", folder_ / "site/current.ljb");
  Store store(root_, {folder_ / "site/current.ljb"});
  EXPECT_EQ(payload_of(store, key_of("a")), "kernel a");
  ASSERT_EQ(::chmod((folder_ / "site").c_str(), 0777), 0);
  Store wary(root_, {folder_ / "site/current.ljb"});
  EXPECT_EQ(payload_of(wary, key_of("a")), "(miss)");
  fs::create_symlink("round.ljb", folder_ / "round.ljb");
  Store round(root_, {folder_ / "round.ljb"});
  EXPECT_NE(round.readonly_layers().at(0).problem, "");
}

TEST_F(BundleLayerTest, seed_is_the_last_layer_trusted_as_the_library_is_and_may_be_absent) {
  const std::string seed = folder_ / "seed.ljb";
  EXPECT_TRUE(Store(root_, {}, {.seed = seed}).readonly_layers().empty());
  write_plainly(seed,
                encode_bundle({{EntryKind::artifact, {key_of("a").bytes(), "", "of the seed"}},
                               {EntryKind::artifact, {key_of("s").bytes(), "", "only there"}}},
                              ""));
  ASSERT_EQ(::chmod(seed.c_str(), 0664), 0);
  Store store(root_, {bundle_}, {.seed = seed});
  EXPECT_EQ(payload_of(store, key_of("a")), "kernel a");
  EXPECT_EQ(payload_of(store, key_of("s")), "only there");
  write_plainly(seed, "damaged");
  Store without(root_, {}, {.seed = seed});
  EXPECT_EQ(payload_of(without, key_of("s")), "(miss)");
  EXPECT_EQ(warnings_about(seed), 1u);
}

TEST_F(BundleLayerTest, import_adds_what_is_missing_mends_what_is_damaged_and_leaves_the_rest) {
  Store store(root_);
  store.publish(EntryKind::artifact, key_of("a"), "", "own");
  store.publish(EntryKind::artifact, key_of("b"), "", "will be damaged");
  const auto file_of_b = [&] {
    for (const StoredFile& file : store.list()) {
      if (file.name == "a/" + key_of("b").hash().hex()) return file.path;
    }
    return std::string();
  };
  write_plainly(file_of_b(), "damaged");
  const Imported imported = store.import_bundle(bundle_);
  EXPECT_EQ(imported.problem, "");
  EXPECT_EQ(imported.written, 2u);
  EXPECT_EQ(imported.existed, 1u);
  EXPECT_EQ(payload_of(store, key_of("a")), "own");
  EXPECT_EQ(payload_of(store, key_of("b")), "kernel b");
  EXPECT_EQ(payload_of(store, key_of("t"), EntryKind::tune), "times");
  EXPECT_EQ(store.import_bundle(bundle_).existed, 3u);
}

TEST_F(BundleLayerTest, import_of_a_bundle_with_one_bad_byte_writes_nothing) {
  Store store(root_);
  for (size_t at = 0; at < bytes_.size(); at += 3) {
    std::string bad = bytes_;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    write_plainly(bundle_, bad);
    EXPECT_NE(store.import_bundle(bundle_).problem, "") << at;
  }
  EXPECT_TRUE(store.list().empty());
  EXPECT_TRUE(list_files(root_).empty());
}

TEST_F(BundleLayerTest, import_says_why_it_cannot) {
  EXPECT_NE(Store(root_).import_bundle(folder_ / "absent").problem.find("No such file"),
            std::string::npos);
  EXPECT_NE(Store(root_).import_bundle(folder_.path()).problem.find("not a file"),
            std::string::npos);
  EXPECT_NE(Store("").import_bundle(bundle_).problem.find("no cache folder"), std::string::npos);
}

TEST_F(BundleLayerTest, import_onto_a_full_disk_counts_what_was_not_written) {
  TinyDisk disk;
  if (!disk.why_not().empty()) GTEST_SKIP() << disk.why_not();
  std::string noise(TinyDisk::too_many_bytes, '\0');
  uint32_t state = 1;
  for (char& byte : noise) byte = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  write_plainly(bundle_, encode_bundle({{EntryKind::artifact, {key_of("a").bytes(), "", "small"}},
                                        {EntryKind::artifact, {key_of("b").bytes(), "", noise}}},
                                       ""));
  Store store(disk.path() + "/cache");
  const Imported imported = store.import_bundle(bundle_);
  EXPECT_EQ(imported.problem, "");
  EXPECT_EQ(imported.written, 1u);
  EXPECT_EQ(imported.failed, 1u);
  EXPECT_EQ(payload_of(store, key_of("a")), "small");
  EXPECT_EQ(list_files(disk.path()).size(), 1u) << "nothing half written stays";
}

}  // namespace
}  // namespace liger
