// Times as they are kept, and what they are kept under.
#include "autotune/record.h"

#include <gtest/gtest.h>

#include <set>

namespace liger {
namespace {

TEST(TuneRecord, comes_back_as_it_was_written) {
  TuneRecord record;
  record.put("threads=128,rows=2", {0.25, 0.5, 0.125, 13});
  record.put("threads=64", {});
  const auto again = TuneRecord::decode(record.encode());
  ASSERT_TRUE(again);
  ASSERT_EQ(again->timings.size(), 2u);
  const Timing* timing = again->find("threads=128,rows=2");
  ASSERT_NE(timing, nullptr);
  EXPECT_EQ(timing->best_ms, 0.25);
  EXPECT_EQ(timing->median_ms, 0.5);
  EXPECT_EQ(timing->deviation_ms, 0.125);
  EXPECT_EQ(timing->samples, 13);
  EXPECT_FALSE(again->find("threads=64")->measured());
  EXPECT_EQ(again->encode(), record.encode());
}

TEST(TuneRecord, malformed_text_gives_none) {
  for (const char* text :
       {"a 1 1 1 1", "a 1 1 1\n", "a 1 1 1 x\n", " 1 1 1 1\n", "a 1,5 1 1 1\n", "a 1 1 1 1 1\n",
        "a  1 1 1 1\n", "a 1 1 1 99999999999\n", "a nan 1 1 1\n", "a 1 inf 1 1\n", "\n"}) {
    EXPECT_FALSE(TuneRecord::decode(text)) << text;
  }
  EXPECT_TRUE(TuneRecord::decode("")->timings.empty());
}

TEST(TuneKey, each_input_changes_it) {
  DeviceProperties device;
  device.target = {Backend::cuda, "sm_90a"};
  device.multiprocessors = 132;
  device.l2_bytes = 50 << 20;
  device.shared_bytes_per_block = 227 << 10;
  device.bandwidth_class = 4096;
  std::set<std::string> hashes;
  const auto add = [&](std::string_view kernel, std::string_view family, int bucket,
                       const DeviceProperties& on, std::string_view compiler) {
    hashes.insert(tune_key(kernel, family, bucket, on, compiler).hash().hex());
  };
  add("RmsNorm", "f", 12, device, "nvrtc 13");
  add("LayerNorm", "f", 12, device, "nvrtc 13");
  add("RmsNorm", "g", 12, device, "nvrtc 13");
  add("RmsNorm", "f", 13, device, "nvrtc 13");
  add("RmsNorm", "f", 12, device, "nvrtc 14");
  const auto add_with = [&](auto&& change) {
    DeviceProperties other = device;
    change(other);
    add("RmsNorm", "f", 12, other, "nvrtc 13");
  };
  add_with([](DeviceProperties& other) { other.target.backend = Backend::hip; });
  add_with([](DeviceProperties& other) { other.target.arch = "sm_100a"; });
  add_with([](DeviceProperties& other) { other.multiprocessors = 114; });
  add_with([](DeviceProperties& other) { other.l2_bytes = 60 << 20; });
  add_with([](DeviceProperties& other) { other.shared_bytes_per_block = 99 << 10; });
  add_with([](DeviceProperties& other) { other.bandwidth_class = 2048; });
  EXPECT_EQ(hashes.size(), 11u);
  // The product's name is for people.
  add_with([](DeviceProperties& other) { other.name = "another card"; });
  EXPECT_EQ(hashes.size(), 11u);
}

}  // namespace
}  // namespace liger
