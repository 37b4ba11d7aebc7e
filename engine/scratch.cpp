#include "engine/scratch.h"

#include <algorithm>
#include <random>

namespace liger {

namespace {

constexpr int64_t most_bytes_filled = int64_t{32} << 20;  // of one tensor
constexpr int64_t pattern_bytes = int64_t{1} << 20;

// Small normal numbers in every floating type: the exponent's high bits are those of 2^-2 to 2^1.
std::vector<char> noise() {
  std::vector<char> bytes(pattern_bytes);
  std::minstd_rand random(1);
  for (size_t i = 0; i < bytes.size(); i += 2) {
    bytes[i] = static_cast<char>(random());
    bytes[i + 1] = static_cast<char>((random() & 0x81) | 0x3e);
  }
  return bytes;
}

const std::vector<char>& pattern(bool floating) {
  static const auto* of_floats = new std::vector<char>(noise());
  static const auto* zeros = new std::vector<char>(pattern_bytes);
  return floating ? *of_floats : *zeros;
}

}  // namespace

Scratch::~Scratch() {
  for (void* memory : memory_) device_.release(memory);
}

void* Scratch::take(int64_t size_bytes, bool floating) {
  const void* const pattern = pattern_on_device(floating);
  void* const memory = reserve(size_bytes);
  if (!pattern || !memory) return nullptr;
  const int64_t end = floating ? std::min(size_bytes, most_bytes_filled) : size_bytes;
  for (int64_t at = 0; at < end; at += pattern_bytes) {
    const int64_t part = std::min(end - at, pattern_bytes);
    if (!device_.copy(static_cast<char*>(memory) + at, pattern, part)) return nullptr;
  }
  return memory;
}

void* Scratch::reserve(int64_t size_bytes) {
  void* const memory = device_.allocate(std::max<int64_t>(size_bytes, 256));
  if (memory) memory_.push_back(memory);
  return memory;
}

const void* Scratch::pattern_on_device(bool floating) {
  void*& on_device = floating ? noise_on_device_ : zeros_on_device_;
  if (!on_device) {
    on_device = reserve(pattern_bytes);
    const auto& bytes = pattern(floating);
    if (!on_device || !device_.write(on_device, bytes.data(), bytes.size())) return nullptr;
  }
  return on_device;
}

}  // namespace liger
