// The one way to what is costly: who is asked in which order, who makes it, who is told, and what a
// failure leaves behind.
#include "runtime/share/obtain_once.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <stdexcept>
#include <thread>

#include "tests/runtime/compile/sample_unit.h"
#include "tests/runtime/share/memory_store.h"

namespace liger {
namespace {

// A text. Entries whose meta says `whole` suffice; a rank's entry does if it has a text at all.
class TextRecipe final : public Recipe<std::string> {
 public:
  TextRecipe(std::string_view name, Ranks ranks)
      : Recipe(ranks == Ranks::share ? EntryKind::artifact : EntryKind::tune,
               Key().add("text", name), ranks) {}

  std::optional<std::string> accept(const Entry& entry) const override {
    return entry.meta == "whole" ? std::optional(entry.payload) : std::nullopt;
  }
  std::optional<std::string> adopt(const Entry& entry) const override {
    return entry.payload.empty() ? std::nullopt : std::optional(entry.payload);
  }
  std::string make(const std::optional<Entry>& start) const override {
    made += 1;
    if (meanwhile) meanwhile();
    if (fails) throw std::runtime_error("it cannot be made");
    return (start ? start->payload + " " : "") + "made";
  }
  Entry entry_of(const std::string& text) const override { return {{}, "whole", text}; }
  bool worth_publishing(const std::string&) const override { return worth; }

  mutable int made = 0;
  std::function<void()> meanwhile;  // while it is made
  bool fails = false;
  bool worth = true;
};

void put(const TextRecipe& recipe, std::string_view meta, std::string_view text) {
  Store::user().publish(recipe.kind, recipe.key, meta, text);
}

std::string text_near(const TextRecipe& recipe) {
  const auto entry = read_local(recipe.kind, recipe.key);
  return entry ? entry->meta + ": " + entry->payload : "";
}

TEST(ObtainOnceTest, what_the_cache_has_is_neither_made_nor_asked_of_a_rank_that_may_have_it) {
  const TextRecipe recipe("cached", Ranks::share);
  put(recipe, "whole", "old");
  const TwoRanks ranks;
  const auto got = obtain_once(recipe);
  EXPECT_EQ(got.value, "old");
  EXPECT_EQ(got.origin, Origin::cache);
  EXPECT_EQ(recipe.made, 0);
  EXPECT_EQ(ranks.asked, 0);
}

TEST(ObtainOnceTest, what_is_made_is_published) {
  const TextRecipe recipe("new", Ranks::share);
  EXPECT_EQ(obtain_once(recipe).origin, Origin::made);
  EXPECT_EQ(text_near(recipe), "whole: made");
  EXPECT_EQ(obtain_once(recipe).origin, Origin::cache);
  EXPECT_EQ(recipe.made, 1);
}

TEST(ObtainOnceTest, an_entry_that_does_not_suffice_is_where_making_starts) {
  const TextRecipe recipe("half", Ranks::agree);
  put(recipe, "half", "half");
  EXPECT_EQ(obtain_once(recipe).value, "half made");
  EXPECT_EQ(text_near(recipe), "whole: half made");
}

TEST(ObtainOnceTest, what_is_not_worth_it_is_told_to_ranks_and_not_published) {
  TextRecipe recipe("worthless", Ranks::agree);
  recipe.worth = false;
  const TwoRanks ranks;
  EXPECT_EQ(obtain_once(recipe).value, "made");
  EXPECT_EQ(text_near(recipe), "");
  EXPECT_EQ(ranks.other->agree(recipe.key, {{}, "whole", "late"}).payload, "made");
}

TEST(ObtainOnceTest, what_a_rank_gave_is_taken_and_kept_for_a_run_without_ranks) {
  const TextRecipe recipe("given", Ranks::share);
  const TwoRanks ranks;
  EXPECT_FALSE(ranks.other->take(recipe.key));
  ranks.other->give(recipe.key, {{}, "whole", "given"});
  const auto got = obtain_once(recipe);
  EXPECT_EQ(got.value, "given");
  EXPECT_EQ(got.origin, Origin::rank);
  EXPECT_EQ(recipe.made, 0);
  EXPECT_EQ(text_near(recipe), "whole: given");
}

TEST(ObtainOnceTest, what_is_made_is_given_to_the_ranks_that_wait_for_it) {
  const TextRecipe recipe("awaited", Ranks::share);
  const TwoRanks ranks;
  EXPECT_EQ(obtain_once(recipe).value, "made");
  const auto taken = ranks.other->take(recipe.key);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->payload, "made");
  EXPECT_EQ(taken->meta, "whole");
}

TEST(ObtainOnceTest, a_failure_frees_the_ranks_and_processes_that_wait) {
  for (const Ranks kind : {Ranks::share, Ranks::agree}) {
    TextRecipe recipe(kind == Ranks::share ? "failed" : "failed to agree", kind);
    recipe.fails = true;
    const TwoRanks ranks;
    EXPECT_THROW(obtain_once(recipe), std::runtime_error);
    EXPECT_FALSE(ranks.other->claimed_elsewhere(recipe.key));
    const pid_t child = fork();  // its own locks would not show
    if (child == 0) _exit(NodeLock::busy(recipe.key.hash(), Store::user().folder()) ? 1 : 0);
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(text_near(recipe), "");
  }
}

TEST(ObtainOnceTest, what_a_process_of_the_node_made_meanwhile_is_taken) {
  const TextRecipe recipe("meanwhile", Ranks::share);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    {
      const NodeLock lock(recipe.key.hash(), Store::user().folder());
      static_cast<void>(!write(ends[1], "r", 1));
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      put(recipe, "whole", "theirs");
    }
    _exit(0);
  }
  char ready = 0;
  ASSERT_EQ(read(ends[0], &ready, 1), 1);
  const TwoRanks ranks;
  const auto got = obtain_once(recipe);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(got.value, "theirs");
  EXPECT_EQ(got.origin, Origin::cache);
  EXPECT_EQ(recipe.made, 0);
  const auto told = ranks.other->take(recipe.key);
  ASSERT_TRUE(told);
  EXPECT_EQ(told->payload, "theirs");
}

TEST(ObtainOnceTest, a_look_makes_nothing_and_promises_nothing) {
  const TextRecipe recipe("looked for", Ranks::agree);
  const TwoRanks ranks;
  EXPECT_FALSE(Obtaining<std::string>(recipe).look());
  EXPECT_EQ(recipe.made, 0);
  EXPECT_FALSE(ranks.other->claimed_elsewhere(recipe.key));
}

TEST(ObtainOnceTest, ranks_that_agree_take_the_first_proposal_and_keep_what_they_have) {
  const TextRecipe recipe("agreed", Ranks::agree);
  put(recipe, "whole", "own");
  const TwoRanks ranks;
  ranks.other->agree(recipe.key, {{}, "whole", "first"});
  const auto got = obtain_once(recipe);
  EXPECT_EQ(got.value, "first");
  EXPECT_EQ(got.origin, Origin::rank);
  EXPECT_EQ(text_near(recipe), "whole: own");
}

TEST(ObtainOnceTest, a_proposal_that_was_faster_than_the_own_one_stands) {
  TextRecipe recipe("faster", Ranks::agree);
  const TwoRanks ranks;
  recipe.meanwhile = [&] { ranks.other->agree(recipe.key, {{}, "whole", "first"}); };
  EXPECT_EQ(obtain_once(recipe).value, "first");
  EXPECT_EQ(recipe.made, 1);
  EXPECT_EQ(text_near(recipe), "whole: made");
}

TEST(ObtainOnceTest, what_the_cache_has_is_proposed_where_ranks_agree) {
  const TextRecipe recipe("proposed", Ranks::agree);
  put(recipe, "whole", "own");
  const TwoRanks ranks;
  EXPECT_EQ(obtain_once(recipe).value, "own");
  EXPECT_EQ(ranks.other->agree(recipe.key, {{}, "whole", "late"}).payload, "own");
}

TEST(ObtainOnceTest, of_a_proposal_only_what_suffices_is_kept) {
  for (const std::string meta : {"whole", "half"}) {
    const TextRecipe recipe("kept if " + meta, Ranks::agree);
    const TwoRanks ranks;
    ranks.other->agree(recipe.key, {{}, meta, "first"});
    EXPECT_EQ(obtain_once(recipe).value, "first");
    EXPECT_EQ(recipe.made, 0);
    EXPECT_EQ(text_near(recipe), meta == "whole" ? "whole: first" : "");
  }
}

TEST(ObtainOnceTest, a_proposal_that_this_rank_cannot_use_stands_in_nobodys_way) {
  const TextRecipe recipe("of no use", Ranks::agree);
  const TwoRanks ranks;
  ranks.other->agree(recipe.key, {{}, "whole", ""});
  EXPECT_EQ(obtain_once(recipe).value, "made");
}

TEST(ObtainOnceTest, an_entry_that_turned_out_bad_is_replaced) {
  const TextRecipe recipe("bad", Ranks::share);
  put(recipe, "whole", "bad");
  const auto got = obtain_anew(recipe);
  EXPECT_EQ(got.value, "made");
  EXPECT_EQ(got.origin, Origin::made);
  EXPECT_EQ(text_near(recipe), "whole: made");
}

}  // namespace
}  // namespace liger
