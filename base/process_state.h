// What threads of a process share behind a lock.
#pragma once

#include <pthread.h>

#include <atomic>

namespace liger {

// One State for each process. A forked child starts with a new one, because the threads that hold
// the old one's locks and promises exist in its parent only. Never destroyed.
template <typename State>
class ProcessState {
 public:
  static State& get() {
    static const int registered = pthread_atfork(nullptr, nullptr, &renew);
    static_cast<void>(registered);
    return *state_;
  }

 private:
  static void renew() { state_ = new State; }
  static inline std::atomic<State*> state_{new State};
};

}  // namespace liger
