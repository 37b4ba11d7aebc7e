// What liger_jit and liger-nvrtc-helper say to each other, as texts of helper_message.h.
#pragma once

#include "runtime/compile/helper_message.h"
#include "runtime/compile/nvrtc_program.h"

namespace liger {

// The first message: this and the build of the helper's NVRTC.
constexpr std::string_view nvrtc_greeting = "liger-nvrtc-helper 1";

// A request: a kind of code, the source, then options.
constexpr std::string_view nvrtc_intermediate = "intermediate";
constexpr std::string_view nvrtc_machine_code = "machine code";

inline std::string message_of(const NvrtcRequest& request) {
  const auto kind = request.to_intermediate ? nvrtc_intermediate : nvrtc_machine_code;
  std::vector<std::string> texts = {std::string(kind), request.source};
  texts.insert(texts.end(), request.options.begin(), request.options.end());
  return encoded(texts);
}

inline std::optional<NvrtcRequest> request_in(std::string_view bytes) {
  const auto texts = decoded(bytes);
  if (!texts || texts->size() < 2) return std::nullopt;
  const auto& t = *texts;
  return NvrtcRequest{t[0] == nvrtc_intermediate, t[1], {t.begin() + 2, t.end()}};
}

inline std::string message_of(const NvrtcResult& result) {
  return encoded({result.error, result.log, result.code});
}

inline std::optional<NvrtcResult> result_in(std::string_view bytes) {
  const auto texts = decoded(bytes);
  if (!texts || texts->size() != 3) return std::nullopt;
  return NvrtcResult{(*texts)[0], (*texts)[1], (*texts)[2]};
}

}  // namespace liger
