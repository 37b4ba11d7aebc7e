#include "runtime/share/store_caller.h"

#include <thread>

#include "base/counters.h"
#include "base/log.h"
#include "base/text.h"

namespace liger {

using Clock = std::chrono::steady_clock;

std::shared_ptr<StoreCaller> StoreCaller::start(OpenStore open, BackOff back_off) {
  auto caller = std::make_shared<StoreCaller>();
  caller->back_off_ = back_off;
  const bool started = caller->attempt(
      [&] { std::thread([caller, open = std::move(open)] { caller->serve(open); }).detach(); });
  if (!started) caller->broken_ = caller->ended_ = true;
  return caller;
}

bool StoreCaller::carry_out(Work work) {
  auto call = std::make_shared<Call>(Call{std::move(work)});
  std::unique_lock lock(mutex_);
  if (broken_ || stopping_ || overdue_ > 0 || back_off_.active(Clock::now())) return false;
  queue_.push_back(call);
  changed_.notify_all();
  changed_.wait_for(lock, answer_bound, [&] { return call->state != State::waiting; });
  if (call->state == State::waiting) {
    call->overdue = true;
    overdue_ += 1;
    counters().group_trouble += 1;
    back_off_.failed(Clock::now());
  } else if (call->state == State::done) {
    back_off_.succeeded();
  }
  return call->state == State::done;
}

void StoreCaller::serve(const OpenStore& open) {
  std::unique_ptr<GroupStore> store;
  const bool opened = attempt([&] { store = open(); });
  std::unique_lock lock(mutex_);
  broken_ = !opened;
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (stopping_) break;
    const std::shared_ptr<Call> call = std::move(queue_.front());
    queue_.pop_front();
    bool done = false;
    if (!broken_) {
      lock.unlock();
      done = attempt([&] { call->work(*store); });
      lock.lock();
      broken_ = !done;
    }
    call->state = done ? State::done : State::failed;
    overdue_ -= call->overdue;
    changed_.notify_all();
  }
  for (const auto& call : queue_) call->state = State::failed;
  lock.unlock();
  attempt([&] { store.reset(); });
  lock.lock();
  ended_ = true;
  changed_.notify_all();
}

bool StoreCaller::attempt(const std::function<void()>& step) {
  try {
    step();
    return true;
  } catch (const std::exception& error) {
    const std::string_view words = error.what();
    counters().group_trouble += 1;
    warn_once("process group",
              fmt::format("kernels are no longer shared through the process group's store, and "
                          "this rank compiles what it needs by itself: {}",
                          words.substr(0, words.find('\n'))));
    return false;
  }
}

void StoreCaller::stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

void StoreCaller::stop_and_wait() {
  stop();
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, answer_bound, [&] { return ended_; });
}

}  // namespace liger
