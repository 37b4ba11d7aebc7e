// NVRTC in a process of a thread's own. Its front end works under one lock a process, so threads
// that compile at once in one process wait for each other.
#pragma once

#include <memory>
#include <optional>

#include "base/serving_process.h"
#include "runtime/compile/nvrtc_program.h"

namespace liger {

// While one lives, what its thread compiles by NVRTC is compiled in another process, which begins
// with the first compile and ends with this. Belongs to the thread that made it; one at a time.
class OwnNvrtc {
 public:
  OwnNvrtc();
  ~OwnNvrtc();
  OwnNvrtc(const OwnNvrtc&) = delete;

  // By the process of this thread. Nothing where there is none or it failed at anything: then NVRTC
  // in this process has the last word.
  static std::optional<NvrtcResult> compile(const NvrtcLibrary& nvrtc, const NvrtcRequest& request);

 private:
  std::unique_ptr<ServingProcess> process_;
  bool failed_ = false;
};

// Instead of liger-nvrtc-helper beside the library. For tests, while nothing is compiled.
void set_nvrtc_helper(std::string path);

}  // namespace liger
