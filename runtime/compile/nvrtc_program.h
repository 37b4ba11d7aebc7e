// One compile by NVRTC.
#pragma once

#include <string>
#include <vector>

#include "runtime/compile/nvrtc_library.h"

namespace liger {

struct NvrtcRequest {
  bool to_intermediate = false;  // PTX, not machine code
  std::string source;
  std::vector<std::string> options;
};

struct NvrtcResult {
  std::string error;  // NVRTC's word for what went wrong; empty if nothing did
  std::string log;
  std::string code;

  bool is_done() const { return error.empty(); }
};

// Thread safe, as NVRTC is. Raises Error(compile) if NVRTC cannot even begin.
NvrtcResult compile_by(const NvrtcLibrary& nvrtc, const NvrtcRequest& request);

}  // namespace liger
