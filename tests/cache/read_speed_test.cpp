// What a warm process pays for a kernel that the cache has: printed, and held to a generous bar.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <vector>

#include "cache/bundle.h"
#include "cache/store.h"
#include "tests/base/temporary_folder.h"

namespace liger {
namespace {

// About those of a kernel for an H100: a source that is text, a binary that is half structure.
constexpr size_t kSourceBytes = 16 << 10;
constexpr size_t kBinaryBytes = 16 << 10;
constexpr double kMostMicroseconds = 500;

double median_microseconds(const std::function<void()>& read) {
  std::vector<double> times;
  for (int i = 0; i < 501; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    read();
    times.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
            .count());
  }
  std::nth_element(times.begin(), times.begin() + 250, times.end());
  return times[250];
}

TEST(ReadSpeed, warm_read_and_verify_of_one_entry) {
  const TemporaryFolder folder;
  std::mt19937 random(5);
  std::string source(kSourceBytes, ' ');
  for (char& letter : source) letter = static_cast<char>('a' + random() % 4);
  std::string binary(kBinaryBytes, '\0');
  for (size_t i = 0; i < binary.size(); i += 2) binary[i] = static_cast<char>(random());
  const Key key = Key().add("source", source);
  Store store(folder / "cache");
  store.publish(Shelf::artifact, key, "symbol=run\n", binary);
  write_plainly(folder / "k.ljb",
                encode_bundle({{Shelf::artifact, *store.find(Shelf::artifact, key.hash())}}, ""));
  Store layered("", {folder / "k.ljb"});

  bool sound = true;
  const double of_folder = median_microseconds(
      [&] { sound &= store.read(Shelf::artifact, key)->payload.size() == kBinaryBytes; });
  const double of_bundle = median_microseconds(
      [&] { sound &= layered.read(Shelf::artifact, key)->payload.size() == kBinaryBytes; });
  EXPECT_TRUE(sound);
  std::printf("read and verify: folder %.1f us, bundle %.1f us\n", of_folder, of_bundle);
  EXPECT_LT(of_folder, kMostMicroseconds);
  EXPECT_LT(of_bundle, kMostMicroseconds);
}

}  // namespace
}  // namespace liger
