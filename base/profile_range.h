// A named stretch of time for profilers, around what is slow and rare: compiles, loads, searches.
#pragma once

#include <string_view>

namespace liger {

class ProfileRange {
 public:
  using Begin = void* (*)(std::string_view name);  // null: nobody looks
  using End = void (*)(void*);
  // torch_bindings brings torch's; until then nothing is done.
  static void set(Begin begin, End end);

  // `liger_jit compile RmsNormForward`
  ProfileRange(std::string_view action, std::string_view what);
  ~ProfileRange();
  ProfileRange(const ProfileRange&) = delete;

 private:
  void* handle_ = nullptr;
};

}  // namespace liger
