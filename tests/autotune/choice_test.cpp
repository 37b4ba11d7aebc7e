// The tuner without an op: candidates that need no compiler and whose times a test decides.
#include "autotune/choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "autotune/picks.h"
#include "autotune/record.h"
#include "base/counters.h"
#include "base/error.h"
#include "cache/store.h"
#include "tests/runtime/compile/sample_unit.h"
#include "tests/runtime/share/memory_store.h"

namespace liger {
namespace {

// Loads anything, and counts as time what the trial says it spends.
class ClockDevice final : public Device {
 public:
  ClockDevice() { properties_.target = parse_target("cpu"); }
  const DeviceProperties& properties() const override { return properties_; }
  Function* load(const Binary& binary, const std::string&) override {
    if (binary.bytes == "bad") throw Error(ErrorKind::compile, "words of the compiler");
    return reinterpret_cast<Function*>(this);
  }
  void allow_shared(Function*, int) override {}
  void launch(Function*, int64_t, int, const void*, size_t, Stream, int) override {}
  uint64_t capture(Stream) override { return 0; }
  void synchronize() override {}
  void* allocate(size_t) override { return nullptr; }
  void release(void*) override {}
  bool write(void*, const void*, size_t) override { return false; }
  bool copy(void*, const void*, size_t) override { return false; }
  double time_ms(Stream, const std::function<void()>& work) override {
    const double before = spent_ms;
    work();
    return spent_ms - before;
  }
  Fault* fault() override { return nullptr; }
  void* fault_pointer() override { return nullptr; }

  double spent_ms = 0;

 private:
  DeviceProperties properties_;
};

ClockDevice& clock_device() {
  static ClockDevice& clock = *new ClockDevice;  // its kernels are kept for the life of the process
  return clock;
}

struct Candidate {
  std::string name;
  double ms;
  std::string code = "code";
  int spill_bytes = 0;
};

class TimedTrial final : public Trial {
 public:
  TimedTrial(const std::vector<Candidate>& candidates, std::map<std::string, int>& launches)
      : candidates_(candidates), launches_(launches) {}
  void launch(int candidate) override {
    launches_[candidates_[candidate].name] += 1;
    clock_device().spent_ms += candidates_[candidate].ms;
  }

 private:
  const std::vector<Candidate>& candidates_;
  std::map<std::string, int>& launches_;
};

// Another `kernel` has other records and picks. Artifacts of its candidates are in the cache.
class TimedKernel final : public Tunable {
 public:
  TimedKernel(std::string_view kernel, std::vector<Candidate> candidates)
      : Tunable("sample", kernel, clock_device(), nullptr), timed(std::move(candidates)) {
    for (size_t i = 0; i < timed.size(); ++i) {
      Store::user().publish(
          EntryKind::artifact, artifact_key(unit(static_cast<int>(i)), device.properties().target),
          "spill_bytes=" + std::to_string(timed[i].spill_bytes) + "\n", timed[i].code);
    }
  }

  std::string identity() const override { return std::string(kernel) + "/" + rows; }
  std::string family() const override { return "family"; }
  int bucket() const override { return 3; }
  std::vector<std::string> candidates() const override {
    asked += 1;
    std::vector<std::string> names;
    for (const Candidate& candidate : timed) names.push_back(candidate.name);
    return names;
  }
  Unit unit(int candidate) const override {
    Unit unit;
    unit.kernel = kernel;
    unit.expanded = std::string(kernel) + timed[candidate].name;
    return unit;
  }
  std::unique_ptr<Trial> trial(const std::vector<const Kernel*>&) const override {
    return has_memory ? std::make_unique<TimedTrial>(timed, launches) : nullptr;
  }

  Key key() const {
    return tune_key(kernel, family(), bucket(), device.properties(),
                    compiler_identity(device.properties().target));
  }
  TuneRecord record() const {
    const auto entry = Store::user().read(EntryKind::tune, key());
    return entry ? TuneRecord::decode(entry->payload).value() : TuneRecord{};
  }
  std::string pick() const {
    for (const Pick& pick : picks_made())
      if (pick.key == key().hash().hex()) return pick.candidate;
    return "";
  }

  const std::vector<Candidate> timed;
  std::string rows = "8";
  bool has_memory = true;
  mutable int asked = 0;
  mutable std::map<std::string, int> launches;
};

class ChoiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const CompilerState state = compiler_for(Backend::cpu).state();
    if (!state.found) GTEST_SKIP() << state.problem;  // of its identity are the keys
  }
};

TEST_F(ChoiceTest, the_fastest_is_chosen_once_and_its_times_are_kept) {
  const TimedKernel kernel("Fastest", {{"a", 3}, {"b", 1}, {"c", 2}});
  const uint64_t tuned_before = counters().tuned;
  const Choice choice = choose_candidate(kernel, true);
  EXPECT_EQ(choice.candidate, 1);
  EXPECT_FALSE(choice.provisional);
  EXPECT_EQ(counters().tuned, tuned_before + 1);
  EXPECT_EQ(kernel.pick(), "b");
  EXPECT_EQ(kernel.record().find("c")->median_ms, 2);
  // The second time nothing but the identity is asked.
  kernel.launches.clear();
  kernel.asked = 0;
  EXPECT_EQ(choose_candidate(kernel, true).candidate, 1);
  EXPECT_EQ(kernel.asked, 0);
  EXPECT_TRUE(kernel.launches.empty());
}

TEST_F(ChoiceTest, another_identity_with_the_same_key_takes_the_pick_and_asks_no_record) {
  TimedKernel kernel("SameKey", {{"a", 3}, {"b", 1}});
  EXPECT_EQ(choose_candidate(kernel, true).candidate, 1);
  TuneRecord other;
  other.put("a", {1, 1, 0, 3});
  other.put("b", {5, 5, 0, 3});
  Store::user().publish(EntryKind::tune, kernel.key(), "kernel=SameKey\npick=a\n", other.encode());
  kernel.launches.clear();
  kernel.rows = "9";
  const uint64_t hits_before = counters().tune_hit;
  EXPECT_EQ(choose_candidate(kernel, true).candidate, 1);
  EXPECT_EQ(counters().tune_hit, hits_before);
  EXPECT_TRUE(kernel.launches.empty());
}

TEST_F(ChoiceTest, what_spills_or_does_not_load_is_out) {
  const TimedKernel kernel("Out", {{"a", 1, "code", 16}, {"b", 1, "bad"}, {"c", 5}, {"d", 4}});
  EXPECT_EQ(choose_candidate(kernel, true).candidate, 3);
  EXPECT_FALSE(kernel.record().find("a")->measured());
  EXPECT_FALSE(kernel.record().find("b")->measured());
  EXPECT_EQ(kernel.launches.count("a") + kernel.launches.count("b"), 0u);
}

TEST_F(ChoiceTest, none_that_loads_is_an_error) {
  const TimedKernel kernel("None", {{"a", 1, "bad"}, {"b", 1, "bad"}});
  try {
    choose_candidate(kernel, true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::compile);
    EXPECT_STREQ(error.what(), "words of the compiler");
  }
}

TEST_F(ChoiceTest, a_search_that_was_interrupted_goes_on) {
  const TimedKernel kernel("Interrupted", {{"a", 3}, {"b", 1}, {"c", 2}});
  TuneRecord begun;
  begun.put("a", {0.5, 0.5, 0, 3});
  begun.put("b", {4, 4, 0, 3});
  Store::user().publish(EntryKind::tune, kernel.key(), "kernel=Interrupted\npick=a\n",
                        begun.encode());
  EXPECT_EQ(choose_candidate(kernel, true).candidate, 0);
  EXPECT_EQ(kernel.launches.size(), 1u);
  EXPECT_GT(kernel.launches["c"], 0);
  EXPECT_EQ(kernel.record().find("b")->median_ms, 4);
}

TEST_F(ChoiceTest, a_record_of_all_is_taken_as_it_is) {
  const TimedKernel kernel("Recorded", {{"a", 1}, {"b", 3}});
  TuneRecord record;
  record.put("a", {4, 4, 0, 3});
  record.put("b", {2, 2, 0, 3});
  Store::user().publish(EntryKind::tune, kernel.key(), "kernel=Recorded\npick=b\n",
                        record.encode());
  const uint64_t hits_before = counters().tune_hit;
  EXPECT_EQ(choose_candidate(kernel, false).candidate, 1);
  EXPECT_EQ(counters().tune_hit, hits_before + 1);
  EXPECT_TRUE(kernel.launches.empty());
}

TEST_F(ChoiceTest, who_may_not_measure_decides_nothing) {
  const TimedKernel kernel("Captured", {{"a", 3}, {"b", 1}});
  const Choice captured = choose_candidate(kernel, false);
  EXPECT_EQ(captured.candidate, 0);
  EXPECT_TRUE(captured.provisional);
  EXPECT_EQ(kernel.pick(), "");
  EXPECT_TRUE(kernel.launches.empty());
  const Choice later = choose_candidate(kernel, true);
  EXPECT_EQ(later.candidate, 1);
  EXPECT_FALSE(later.provisional);
}

TEST_F(ChoiceTest, without_memory_to_measure_in_the_first_that_can_be_used_is_taken) {
  TimedKernel kernel("NoMemory", {{"a", 1, "bad"}, {"b", 3}, {"c", 1}});
  kernel.has_memory = false;
  const Choice choice = choose_candidate(kernel, true);
  EXPECT_EQ(choice.candidate, 1);
  EXPECT_FALSE(choice.provisional);
  EXPECT_FALSE(Store::user().read(EntryKind::tune, kernel.key()));
}

TEST_F(ChoiceTest, the_pick_of_another_rank_is_taken_whatever_it_measured) {
  const TimedKernel kernel("OfRank", {{"a", 3}, {"b", 1}, {"c", 2}});
  const TwoRanks ranks;
  ranks.other->agree(kernel.key(), {{}, "kernel=OfRank\npick=c\n", ""});
  EXPECT_EQ(choose_candidate(kernel, true).candidate, 2);
  EXPECT_TRUE(kernel.launches.empty());
  EXPECT_EQ(kernel.pick(), "c");
}

TEST_F(ChoiceTest, a_pick_that_is_none_of_the_candidates_is_searched_for) {
  const TimedKernel kernel("NotOurs", {{"a", 3}, {"b", 1}});
  const TwoRanks ranks;
  ranks.other->agree(kernel.key(), {{}, "kernel=NotOurs\npick=z\n", ""});
  EXPECT_EQ(choose_candidate(kernel, true).candidate, 1);
}

TEST_F(ChoiceTest, what_a_search_found_is_proposed_to_all_ranks) {
  const TimedKernel kernel("Proposed", {{"a", 3}, {"b", 1}});
  const TwoRanks ranks;
  EXPECT_EQ(choose_candidate(kernel, true).candidate, 1);
  const auto standing = ranks.other->agreed(kernel.key());
  ASSERT_TRUE(standing);
  EXPECT_EQ(standing->meta, "kernel=Proposed\npick=b\n");
  EXPECT_EQ(TuneRecord::decode(standing->payload)->timings.size(), 2u);
}

TEST(PicksTest, the_first_for_a_key_stands_unless_it_is_no_candidate_of_the_call) {
  const Key key = Key().add("number", "of a pick");
  EXPECT_FALSE(pick_made(key, {"a", "b"}));
  EXPECT_EQ(make_pick(key, "Kernel", 1, {"a", "b"}), 1);
  EXPECT_EQ(make_pick(key, "Kernel", 0, {"a", "b"}), 1) << "another thread was first";
  EXPECT_EQ(pick_made(key, {"b", "a"}), 0);
  EXPECT_FALSE(pick_made(key, {"a", "c"}));
  EXPECT_EQ(make_pick(key, "Kernel", 1, {"a", "c"}), 1);
  EXPECT_EQ(pick_made(key, {"a", "b"}), 1);
}

}  // namespace
}  // namespace liger
