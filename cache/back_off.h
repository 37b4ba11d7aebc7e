// When to ask again somebody who failed: after 5 s, and twice as long after each failure that
// follows, up to 5 minutes. One success and all is as before. Not thread safe.
#pragma once

#include <algorithm>
#include <chrono>

namespace liger {

class BackOff {
 public:
  using Clock = std::chrono::steady_clock;
  using Milliseconds = std::chrono::milliseconds;

  explicit BackOff(Milliseconds first = std::chrono::seconds(5),
                   Milliseconds longest = std::chrono::minutes(5))
      : first_(first), longest_(longest), next_(first) {}

  bool active(Clock::time_point now) const { return now < until_; }

  // Failures that come while it is active belong to the one that made it so.
  void failed(Clock::time_point now) {
    if (active(now)) return;
    until_ = now + next_;
    next_ = std::min(2 * next_, longest_);
  }

  void succeeded() {
    until_ = {};
    next_ = first_;
  }

 private:
  Milliseconds first_, longest_, next_;
  Clock::time_point until_{};
};

}  // namespace liger
