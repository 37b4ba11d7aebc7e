// Every way to damage a file on disk: detected, moved aside, and mended by the next publish.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <random>

#include "base/counters.h"
#include "cache/entry_format.h"
#include "cache/store.h"
#include "tests/base/temporary_folder.h"
#include "tests/repeats.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

constexpr size_t payload_bytes = 1000;

class DamagedEntry : public testing::Test {
 protected:
  DamagedEntry() {
    std::mt19937 random(5);
    payload_.resize(payload_bytes);
    for (char& byte : payload_) byte = static_cast<char>(random());
    publish();
    good_ = read_plainly(file_);
  }

  void publish() { store_.publish(EntryKind::artifact, key_, some_meta, payload_); }

  // Reads while `bad` stands in the place of the entry, then as the run would go on.
  void expect_detected_and_mended(const std::string& bad, size_t where) {
    write_plainly(file_, bad);
    ASSERT_FALSE(store_.read(EntryKind::artifact, key_)) << where;
    publish();
    const auto mended = store_.read(EntryKind::artifact, key_);
    ASSERT_TRUE(mended) << where;
    ASSERT_EQ(mended->payload, payload_) << where;
    ++damages_;
  }

  void flip(size_t bit) {
    std::string bad = good_;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    expect_detected_and_mended(bad, bit);
  }

  ~DamagedEntry() override { EXPECT_EQ(counters().corrupt - corrupt_before_, damages_); }

  static constexpr std::string_view some_meta = "symbol=run\nkernel=RmsNormForward\nregisters=40\n";
  const uint64_t corrupt_before_ = counters().corrupt;
  uint64_t damages_ = 0;
  const TemporaryFolder folder_;
  Store store_{folder_ / "cache"};
  const Key key_ = Key().add("op", "rms_norm").add("source", std::string(500, 's'));
  const std::string hex_ = key_.hash().hex();
  const std::string file_ = folder_ / "cache/v1/a/" + hex_.substr(0, 2) + "/" + hex_ + ".ljk";
  std::string payload_;
  std::string good_;
};

TEST_F(DamagedEntry, cut_at_every_length) {
  for (size_t size = 0; size < good_.size(); ++size) {
    expect_detected_and_mended(good_.substr(0, size), size);
  }
}

TEST_F(DamagedEntry, every_bit_of_header_key_and_meta) {
  for (size_t bit = 0; bit < 8 * (good_.size() - payload_bytes); ++bit) flip(bit);
}

TEST_F(DamagedEntry, random_bits_of_the_payload) {
  std::mt19937 random(23);
  const size_t first_bit = 8 * (good_.size() - payload_bytes);
  for (int i = 0; i < repeats("TORTURE_FLIPS", 1000); ++i) {
    flip(first_bit + random() % (8 * payload_bytes));
  }
}

TEST_F(DamagedEntry, size_that_no_memory_can_hold) {
  ASSERT_EQ(::truncate(file_.c_str(), off_t{1} << 42), 0);
  ASSERT_FALSE(store_.read(EntryKind::artifact, key_));
  ++damages_;
  publish();
  EXPECT_TRUE(store_.read(EntryKind::artifact, key_));
}

TEST_F(DamagedEntry, link_folder_or_pipe_in_its_place) {
  const auto expect_mended = [&] {
    EXPECT_FALSE(store_.read(EntryKind::artifact, key_));
    ++damages_;
    publish();
    EXPECT_TRUE(store_.read(EntryKind::artifact, key_));
    fs::remove_all(folder_ / "cache/v1/q");
  };
  fs::rename(file_, folder_ / "elsewhere");
  fs::create_symlink(folder_ / "elsewhere", file_);
  expect_mended();
  fs::remove(file_);
  fs::create_directory(file_);
  expect_mended();
  fs::remove(file_);
  ASSERT_EQ(::mkfifo(file_.c_str(), 0600), 0);
  expect_mended();
}

TEST_F(DamagedEntry, is_mended_although_it_cannot_be_kept_for_a_look) {
  write_plainly(folder_ / "cache/v1/q", "a file where the folder should be");
  expect_detected_and_mended(good_.substr(0, 100), 100);
}

}  // namespace
}  // namespace liger
