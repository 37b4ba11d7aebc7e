// How long a process waits for what another one is making. Waits that end with the thing cost
// nothing that a compile would not have cost; waits in vain come out of one budget for each process
// and kind, so a peer that hangs is paid for once and not for every key.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace liger {

// Thread safe. One for each kind of wait, for the life of the process; all kinds share the slowest
// compile. Raises only what `arrived` does, and the wait then counts for nothing.
class WaitBudget {
 public:
  using Duration = std::chrono::milliseconds;

  // At least `least` of waiting in vain, or twice the slowest compile seen in this process: where
  // compiles are slow, for instance because all ranks compile at once, waiting is still the cheaper
  // way.
  // Who is asked is asked at least each `longest_pause`.
  explicit constexpr WaitBudget(Duration least, Duration longest_pause = Duration{16})
      : least_(least), longest_pause_(longest_pause) {}

  // Asks `arrived` again and again until it says yes (true) or patience ends (false).
  template <typename Arrived>
  bool wait_until(Arrived arrived) {
    const auto begin = std::chrono::steady_clock::now();
    Duration pause{1};
    while (true) {
      if (arrived()) return true;
      const auto waited =
          std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now() - begin);
      if (waited >= left()) {
        waste(waited);
        return false;
      }
      rest(pause);
      pause = std::min(pause * 2, longest_pause_);
    }
  }

  // Zero while the process ends.
  Duration left() const;

  static void compile_took(double milliseconds);
  static void end_all_waits();

 private:
  void waste(Duration waited);
  static void rest(Duration pause);

  Duration least_;
  Duration longest_pause_;
  std::atomic<int64_t> wasted_ms_{0};
};

}  // namespace liger
