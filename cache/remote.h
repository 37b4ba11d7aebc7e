// Entries on a Redis server that machines share. The last layer: it may be slow, dead, full or
// wrong, and all that costs is at most 0.2 s for a key, a counter and one warning in a process. The
// protocol is in FORMAT.md.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>

#include "cache/back_off.h"
#include "cache/redis_connection.h"
#include "cache/store.h"

namespace liger {

// Of everything that somebody waits for: connecting, logging in, the command and its reply. The
// system may take a moment more to wake who waits, and all together is to stay within 0.2 s.
inline constexpr std::chrono::milliseconds remote_budget{180};

// No entry is near it; a longer value is not one of ours.
inline constexpr size_t most_remote_bytes = size_t{2} << 20;

class Remote {
 public:
  explicit Remote(RemoteAddress address, BackOff back_off = BackOff());

  ~Remote() = delete;  // its thread goes on to the end of the process

  // The process's own, from the environment; null when there is none. A forked child has another,
  // with a connection of its own.
  static Remote* of_process();

  // The entry if the server has it and every byte verifies. A key that is not there is asked for
  // once in a process.
  std::optional<Entry> read(EntryKind kind, const Key& key);

  // Queued; returns at once. A kernel that is there stays, unless it was rejected or `replace` is
  // set; times are replaced.
  void publish(EntryKind kind, const Key& key, std::string bytes, bool replace);

  // Until what was queued is sent or given up, or the time is over.
  void drain(std::chrono::milliseconds longest);

 private:
  struct Question;
  struct Message {
    std::string name;
    std::string bytes;
    bool replace;
  };

  void work();
  RedisReply ask(const std::vector<std::string_view>& words, Deadline deadline);
  void start_thread();
  void note_failure(BackOff& back_off, std::string_view why);
  std::string name_of(EntryKind kind, const Hash128& hash) const;
  static void renew_in_child();

  const RemoteAddress address_;

  std::mutex mutex_;
  std::condition_variable asked_;     // the thread has something to do
  std::condition_variable answered_;  // it has done something
  std::deque<std::shared_ptr<Question>> questions_;
  std::deque<Message> messages_;
  size_t message_bytes_ = 0;
  bool thread_runs_ = false;
  bool sending_ = false;
  BackOff server_;  // every request
  BackOff writes_;  // a server that reads but takes nothing
  std::unordered_set<std::string> absent_;
  std::unordered_set<std::string> rejected_;

  std::unique_ptr<RedisConnection> connection_;  // the thread's alone
  std::atomic<int> descriptor_{-1};              // its socket, for a forked child to close
};

}  // namespace liger
