#include "runtime/share/group.h"

#include <unistd.h>

#include <cstdlib>
#include <mutex>

#include "base/counters.h"
#include "base/log.h"
#include "base/text.h"
#include "runtime/share/wait_budget.h"

namespace liger {
namespace {

// Names of another version of this library are others.
constexpr std::string_view kernels = "liger_jit/1/kernel";
constexpr std::string_view picks = "liger_jit/1/pick";
constexpr std::string_view claims = "liger_jit/1/claim";
constexpr std::string_view broken_claim = "nobody";

std::string name_of(std::string_view kind, const Key& key) {
  return fmt::format("{}/{}", kind, key.hash().hex());
}

// A claim is given right before the work, so it is kept unless its rank dies or hangs.
WaitBudget& wait_budget() {
  static WaitBudget with_ranks{std::chrono::seconds(5), std::chrono::milliseconds(100)};
  return with_ranks;
}

std::function<std::shared_ptr<Group>()>& source() {
  static auto& of_process = *new std::function<std::shared_ptr<Group>()>();
  return of_process;
}

// Handlers at exit take the store's library apart, so the thread that calls it ends before.
void end_at_exit(const std::shared_ptr<StoreCaller>& caller) {
  static auto& latest = *new std::weak_ptr<StoreCaller>();
  static pid_t process;
  latest = caller;
  process = getpid();
  static const int registered = std::atexit([] {
    if (process != getpid()) return;  // the thread is the parent's
    if (const auto last = latest.lock()) last->stop_and_wait();
  });
  static_cast<void>(registered);
}

std::string bytes_of(const Key& key, const Entry& entry) {
  return encode_entry(key.bytes(), entry.meta, entry.payload);
}

std::optional<Entry> verified(const Key& key, const std::string& bytes) {
  std::optional<Entry> entry = decode_entry(bytes);
  const std::string name = key.hash().hex();
  if (entry && entry->key_bytes == key.bytes()) {
    if (log_enabled()) log_event(Event::hit, {{"group", name}});
    return entry;
  }
  counters().corrupt += 1;
  log_event(Event::corrupt, {{"group", name}});
  warn_once("process group entry",
            "an entry from the process group's store does not verify and is made anew; if this "
            "comes again, see that all ranks run the same version of liger_jit");
  return std::nullopt;
}

}  // namespace

Group::Group(int rank, int size, OpenStore open, BackOff back_off)
    : rank_(rank), size_(size), caller_(StoreCaller::start(std::move(open), back_off)) {
  end_at_exit(caller_);
}

Group::~Group() { caller_->stop(); }

std::shared_ptr<Group> Group::current() { return source() ? source()() : nullptr; }

std::optional<std::string> Group::get(const std::string& name) {
  using Found = std::optional<std::string>;
  return caller_->ask<Found>([name](GroupStore& store) { return store.get(name); })
      .value_or(std::nullopt);
}

std::optional<Entry> Group::found(std::string_view kind, const Key& key) {
  const auto bytes = get(name_of(kind, key));
  return bytes ? verified(key, *bytes) : std::nullopt;
}

std::optional<Entry> Group::found_or_claim(std::string_view kind, const Key& key) {
  const std::string mine = fmt::format("{}", rank_);
  const std::string name = name_of(claims, key);
  const auto holder = caller_->ask<std::string>(
      [name, mine](GroupStore& store) { return store.propose(name, mine); });
  if (!holder || *holder == mine) return std::nullopt;
  if (*holder == broken_claim) return found(kind, key);
  std::optional<std::string> bytes;
  wait_budget().wait_until([&] {
    bytes = get(name_of(kind, key));
    return bytes || get(name).value_or(std::string(broken_claim)) == broken_claim;
  });
  return bytes ? verified(key, *bytes) : std::nullopt;
}

std::optional<Entry> Group::take(const Key& key) {
  auto entry = found_or_claim(kernels, key);
  counters().hit_group += entry.has_value();
  return entry;
}

void Group::give(const Key& key, const Entry& entry) {
  const std::string name = name_of(kernels, key);
  const std::string bytes = bytes_of(key, entry);
  caller_->ask<bool>([name, bytes](GroupStore& store) {
    store.set(name, bytes);
    return true;
  });
}

void Group::give_up(const Key& key) {
  const std::string name = name_of(claims, key);
  caller_->ask<bool>([name](GroupStore& store) {
    store.set(name, std::string(broken_claim));
    return true;
  });
}

bool Group::claimed_elsewhere(const Key& key) {
  const auto holder = get(name_of(claims, key));
  return holder && *holder != broken_claim && *holder != fmt::format("{}", rank_) &&
         !get(name_of(kernels, key));
}

std::optional<Entry> Group::agreed(const Key& key) {
  auto entry = found(picks, key);
  counters().pick_group += entry.has_value();
  return entry;
}

std::optional<Entry> Group::agreed_or_claim(const Key& key) {
  auto entry = found_or_claim(picks, key);
  counters().pick_group += entry.has_value();
  return entry;
}

Entry Group::agree(const Key& key, const Entry& proposal) {
  const std::string name = name_of(picks, key);
  const std::string bytes = bytes_of(key, proposal);
  const auto standing = caller_->ask<std::string>(
      [name, bytes](GroupStore& store) { return store.propose(name, bytes); });
  if (!standing || *standing == bytes) return proposal;
  auto entry = verified(key, *standing);
  if (!entry) return proposal;
  counters().pick_group += 1;
  return *std::move(entry);
}

void set_group_source(std::function<std::shared_ptr<Group>()> given) {
  source() = std::move(given);
}

}  // namespace liger
