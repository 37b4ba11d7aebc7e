// Plans by call. A call is its words: op, place, and each input's dtype, sizes, strides, alignment
// or value. Everything but the pointers is in them, so one comparison decides.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "engine/plan.h"

namespace liger {

constexpr int max_call_key_words = 192;

struct CallKey {
  uint64_t key[max_call_key_words];
  int count = 0;
  void push(uint64_t word) { key[count++] = word; }
  std::span<const uint64_t> span() const { return {key, static_cast<size_t>(count)}; }
};

// Written in the order of the op's inputs.
void begin_call(CallKey& call, const Op& op, Place place);
void push_tensor(CallKey& call, const Tensor& tensor);
void push_scalar(CallKey& call, Scalar scalar);

// What the key stand for.
Call decode(const Op& op, std::span<const uint64_t> key);

// From this thread's table, without a lock; null when it is not there.
const Plan* find_plan(std::span<const uint64_t> key);

// From the process's table, or made; then it is in this thread's.
const Plan& plan_for(std::span<const uint64_t> key,
                     const std::function<std::shared_ptr<const Plan>()>& make);

}  // namespace liger
