// Calls the store of a process group from a thread of its own, so that a store that hangs or raises
// cannot take a rank along.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "cache/back_off.h"

namespace liger {

// What the store of a process group can do. Sees no torch; torch_bindings/ has the real one. Not
// thread safe: the thread of a StoreCaller makes, calls, owns and destroys it. Calls may raise.
class GroupStore {
 public:
  virtual ~GroupStore() = default;
  virtual std::optional<std::string> get(const std::string& name) = 0;  // never waits for a value
  virtual void set(const std::string& name, const std::string& value) = 0;
  // Sets what is not there yet; gives the value that stands. The empty text counts as not there.
  virtual std::string propose(const std::string& name, const std::string& value) = 0;
};

using OpenStore = std::function<std::unique_ptr<GroupStore>()>;

// Thread safe. Owned by its group and by its thread, whichever is the last. Raises nothing: what
// fails or is late has no answer.
class StoreCaller : public std::enable_shared_from_this<StoreCaller> {
 public:
  static constexpr std::chrono::milliseconds answer_bound{200};

  // `open` runs on the new thread. After an error of it or of a call, or if there can be no thread,
  // there is one warning, and the store is asked no more.
  static std::shared_ptr<StoreCaller> start(OpenStore open, BackOff back_off);

  // Empty if there is no answer within the bound. While a call is overdue, and for the pause of
  // the back-off, others are refused at once: a store that is slow or hangs costs the bound and
  // then next to nothing, and works again when it answers in time.
  template <typename Answer>
  std::optional<Answer> ask(std::function<Answer(GroupStore&)> question) {
    auto promise = std::make_shared<std::promise<Answer>>();
    std::future<Answer> future = promise->get_future();
    const bool answered = carry_out([promise, question = std::move(question)](GroupStore& store) {
      promise->set_value(question(store));
    });
    return answered ? std::optional<Answer>(future.get()) : std::nullopt;
  }

  void stop();           // the thread ends after what it is doing
  void stop_and_wait();  // for at most the bound

 private:
  using Work = std::function<void(GroupStore&)>;
  enum class State { waiting, done, failed };
  struct Call {
    Work work;
    State state = State::waiting;
    bool overdue = false;
  };

  bool carry_out(Work work);
  void serve(const OpenStore& open);
  bool attempt(const std::function<void()>& step);  // false, after a warning, if it raised

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Call>> queue_;
  BackOff back_off_;
  int overdue_ = 0;
  bool broken_ = false;
  bool stopping_ = false;
  bool ended_ = false;
};

}  // namespace liger
