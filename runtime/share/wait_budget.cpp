#include "runtime/share/wait_budget.h"

#include <algorithm>
#include <thread>

#include "base/counters.h"

namespace liger {
namespace {

constexpr int64_t longest_ms = 10'000;

std::atomic<int64_t> slowest_compile_ms{0};
std::atomic<bool> ending{false};

}  // namespace

WaitBudget::Duration WaitBudget::left() const {
  if (ending.load(std::memory_order_relaxed)) return Duration{0};
  const int64_t whole = std::clamp(2 * slowest_compile_ms.load(std::memory_order_relaxed),
                                   static_cast<int64_t>(least_.count()), longest_ms);
  return Duration{std::max<int64_t>(0, whole - wasted_ms_.load(std::memory_order_relaxed))};
}

void WaitBudget::waste(Duration waited) {
  counters().wait_expired += 1;
  wasted_ms_ += waited.count();
}

void WaitBudget::rest(Duration pause) { std::this_thread::sleep_for(pause); }

void WaitBudget::compile_took(double milliseconds) {
  const auto took = static_cast<int64_t>(milliseconds);
  int64_t slowest = slowest_compile_ms.load(std::memory_order_relaxed);
  while (took > slowest && !slowest_compile_ms.compare_exchange_weak(slowest, took)) {
  }
}

void WaitBudget::end_all_waits() { ending.store(true, std::memory_order_relaxed); }

}  // namespace liger
