#include "cache/remote.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <system_error>
#include <thread>

#include "base/counters.h"
#include "base/environment.h"
#include "base/log.h"
#include "base/text.h"
#include "cache/entry_format.h"

namespace liger {
namespace {

using Clock = std::chrono::steady_clock;
using Kind = RedisReply::Kind;

constexpr size_t most_queued_bytes = size_t{64} << 20;
constexpr std::chrono::milliseconds longest_exit{1000};

std::atomic<Remote*> the_remote{nullptr};

void drain_at_exit() {
  if (Remote* const remote = the_remote) remote->drain(longest_exit);
}

}  // namespace

struct Remote::Question {
  std::string name;
  Deadline deadline;
  bool answered = false;
  RedisReply reply;
};

Remote::Remote(RemoteAddress address, BackOff back_off)
    : address_(std::move(address)), server_(back_off), writes_(back_off) {}

Remote* Remote::of_process() {
  if (!environment().remote) return nullptr;
  static const bool made = [] {
    the_remote = new Remote(*environment().remote);
    pthread_atfork(nullptr, nullptr, &Remote::renew_in_child);
    std::atexit(drain_at_exit);
    return true;
  }();
  static_cast<void>(made);
  return the_remote;
}

// The thread, its locks and its half of the conversation are the parent's.
void Remote::renew_in_child() {
  Remote* const parents = the_remote;
  if (parents == nullptr) return;
  if (const int descriptor = parents->descriptor_; descriptor >= 0) ::close(descriptor);
  the_remote = new Remote(parents->address_);
}

std::string Remote::name_of(EntryKind kind, const Hash128& hash) const {
  return fmt::format("{}/{}/{}", address_.prefix, schema_folder, entry_name(kind, hash));
}

// With mutex_ held.
void Remote::note_failure(BackOff& back_off, std::string_view why) {
  ++counters().remote_errors;
  back_off.failed(Clock::now());
  counters().remote_skipped += messages_.size();
  messages_.clear();
  message_bytes_ = 0;
  log_event(Event::fallback, {{"remote", address_.shown()}, {"why", std::string(why)}});
  warn_once("remote",
            fmt::format("the shared cache {} does not serve ({}); the run goes on without "
                        "it and asks again later. Look at the server, or unset "
                        "LIGER_JIT_REMOTE",
                        address_.shown(), why));
}

std::optional<Entry> Remote::read(EntryKind kind, const Key& key) {
  const Clock::time_point begin = Clock::now();
  const auto question = std::make_shared<Question>();
  question->name = name_of(kind, key.hash());
  question->deadline = begin + remote_budget;
  std::unique_lock lock(mutex_);
  if (absent_.contains(question->name)) return std::nullopt;
  if (server_.active(begin)) {
    ++counters().remote_skipped;
    return std::nullopt;
  }
  questions_.push_back(question);
  start_thread();
  asked_.notify_one();
  const bool in_time =
      answered_.wait_until(lock, question->deadline, [&] { return question->answered; });
  counters().remote_microseconds += static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count());
  if (!in_time) {
    std::erase(questions_, question);
    note_failure(server_, fmt::format("no answer within {} ms", remote_budget.count()));
    return std::nullopt;
  }

  const RedisReply& reply = question->reply;
  // A value that is no string is somebody else's, or damage; the server is well.
  const bool wrong_type = reply.kind == Kind::refused && reply.text.starts_with("WRONGTYPE");
  if (reply.kind == Kind::broken || (reply.kind == Kind::refused && !wrong_type)) {
    note_failure(server_, reply.text);
    return std::nullopt;
  }
  server_.succeeded();
  if (reply.kind == Kind::absent || (reply.kind == Kind::text && reply.text.empty())) {
    ++counters().miss_remote;
    absent_.insert(question->name);
    return std::nullopt;
  }
  lock.unlock();

  std::optional<Entry> entry;
  if (reply.kind == Kind::text && reply.text.size() <= most_remote_bytes)
    entry = decode_entry(reply.text);
  if (entry && entry->key_bytes == key.bytes()) {
    ++counters().hit_remote;
    if (log_enabled()) log_event(Event::hit, {{"remote", question->name}});
    return entry;
  }
  ++counters().remote_rejected;
  lock.lock();
  rejected_.insert(question->name);
  absent_.insert(question->name);
  lock.unlock();
  log_event(Event::corrupt, {{"remote", question->name}});
  warn_once("remote", fmt::format("the shared cache {} holds a value under {} that {}; it is "
                                  "compiled anew and replaced. If this comes again, look at who "
                                  "writes there",
                                  address_.shown(), question->name,
                                  entry ? "belongs to another key" : "does not verify"));
  return std::nullopt;
}

void Remote::publish(EntryKind kind, const Key& key, std::string bytes, bool replace) {
  if (bytes.size() > most_remote_bytes) return;
  Message message{name_of(kind, key.hash()), std::move(bytes), replace || kind == EntryKind::tune};
  const std::lock_guard lock(mutex_);
  const Clock::time_point now = Clock::now();
  if (server_.active(now) || writes_.active(now) ||
      message_bytes_ + message.bytes.size() > most_queued_bytes) {
    ++counters().remote_skipped;
    return;
  }
  message.replace |= rejected_.contains(message.name);
  message_bytes_ += message.bytes.size();
  messages_.push_back(std::move(message));
  start_thread();
  asked_.notify_one();
}

void Remote::drain(std::chrono::milliseconds longest) {
  std::unique_lock lock(mutex_);
  answered_.wait_for(lock, longest, [&] { return messages_.empty() && !sending_; });
}

// With mutex_ held. No thread for a process that never asks.
void Remote::start_thread() {
  if (std::exchange(thread_runs_, true)) return;
  // No signal is for this thread. Writing to a dead server raises SIGPIPE, which then stays
  // pending.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread([this] { work(); }).detach();
  } catch (const std::system_error&) {
    thread_runs_ = false;  // a limit on threads: the question stays without an answer
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Remote::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    asked_.wait(lock, [&] { return !questions_.empty() || !messages_.empty(); });
    if (!questions_.empty()) {
      // First: somebody waits for it.
      const std::shared_ptr<Question> question = questions_.front();
      questions_.pop_front();
      lock.unlock();
      // The last byte is there only if the value is too long. Not GET, which would bring all of it.
      const std::string last = fmt::format("{}", most_remote_bytes);
      RedisReply reply = ask({"GETRANGE", question->name, "0", last}, question->deadline);
      lock.lock();
      question->reply = std::move(reply);
      question->answered = true;
    } else {
      const Message message = std::move(messages_.front());
      messages_.pop_front();
      message_bytes_ -= message.bytes.size();
      sending_ = true;
      lock.unlock();
      std::vector<std::string_view> words = {"SET", message.name, message.bytes};
      if (!message.replace) words.push_back("NX");
      const RedisReply reply = ask(words, Clock::now() + remote_budget);
      lock.lock();
      sending_ = false;
      if (reply.kind == Kind::text) {
        ++counters().remote_published;
        writes_.succeeded();
        if (log_enabled()) log_event(Event::publish, {{"remote", message.name}});
      } else if (reply.kind != Kind::absent) {  // absent: somebody was first
        note_failure(reply.kind == Kind::broken ? server_ : writes_, reply.text);
      }
    }
    answered_.notify_all();
  }
}

RedisReply Remote::ask(const std::vector<std::string_view>& words, Deadline deadline) {
  const bool was_open = connection_ != nullptr;
  RedisReply reply;
  for (bool again = was_open;; again = false) {
    if (!connection_) {
      std::string why;
      connection_ = RedisConnection::open(address_, deadline, why);
      if (!connection_) return {Kind::broken, why};
      descriptor_ = connection_->descriptor();
    }
    reply = connection_->ask(words, most_remote_bytes, deadline);
    if (reply.kind != Kind::broken) return reply;
    descriptor_ = -1;
    connection_.reset();
    // A server may have closed a connection that was idle, or have been started anew.
    if (!again || Clock::now() >= deadline) return reply;
  }
}

}  // namespace liger
