// What liger_jit and liger-hiprtc-helper say to each other, as texts of helper_message.h.
#pragma once

#include <string>
#include <string_view>

#include "runtime/compile/helper_message.h"

namespace liger {

// Request: command, library candidates (one a line), source, then options. The commands are
constexpr std::string_view hiprtc_identify = "identify";
constexpr std::string_view hiprtc_compile = "compile";

// Reply: greeting, outcome, version, paths of the libraries (one a line), words, code.
struct HiprtcReply {
  static constexpr std::string_view greeting = "liger-hiprtc-helper 1";
  static constexpr std::string_view done = "done";
  static constexpr std::string_view refused = "refused";  // by the compiler
  static constexpr std::string_view missing = "missing";  // no library could be used

  std::string outcome;
  std::string version;
  std::string libraries;
  std::string words;
  std::string code;
};

}  // namespace liger
