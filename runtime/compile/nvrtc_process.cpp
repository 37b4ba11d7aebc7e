#include "runtime/compile/nvrtc_process.h"

#include <cstdlib>

#include "base/error.h"
#include "base/shared_library.h"
#include "base/text.h"
#include "runtime/compile/nvrtc_message.h"

namespace liger {
namespace {

constexpr auto timeout = std::chrono::seconds(120);

std::string& helper_path() {
  static auto& path = *new std::string(own_folder() + "/liger-nvrtc-helper");
  return path;
}

thread_local OwnNvrtc* of_this_thread = nullptr;

// Nothing unless its NVRTC is this process's: a file may have been replaced since that was loaded,
// and the key of what is compiled names the build.
std::unique_ptr<ServingProcess> start(const NvrtcLibrary& nvrtc, Deadline deadline) {
  std::vector<std::string> environment;
  // Named in the key, as `options` says.
  if (const char* const appended = std::getenv("NVRTC_APPEND_FLAGS"))
    environment.push_back(fmt::format("NVRTC_APPEND_FLAGS={}", appended));
  auto process = std::make_unique<ServingProcess>(
      std::vector<std::string>{helper_path(), nvrtc.library.path()}, environment);
  const std::optional<std::string> bytes = process->receive(deadline);
  const auto greeting = decoded(bytes.value_or(""));
  const bool is_ours = greeting && greeting->size() == 2 && (*greeting)[0] == nvrtc_greeting &&
                       (*greeting)[1] == nvrtc.build();
  return is_ours ? std::move(process) : nullptr;
}

std::optional<NvrtcResult> ask(ServingProcess& process, const NvrtcRequest& request,
                               Deadline deadline) {
  if (!process.send(message_of(request), deadline)) return std::nullopt;
  const std::optional<std::string> bytes = process.receive(deadline);
  return bytes ? result_in(*bytes) : std::nullopt;
}

}  // namespace

OwnNvrtc::OwnNvrtc() { of_this_thread = this; }

OwnNvrtc::~OwnNvrtc() { of_this_thread = nullptr; }

std::optional<NvrtcResult> OwnNvrtc::compile(const NvrtcLibrary& nvrtc,
                                             const NvrtcRequest& request) {
  OwnNvrtc* const own = of_this_thread;
  if (!own || own->failed_) return std::nullopt;
  const Deadline deadline = std::chrono::steady_clock::now() + timeout;
  std::optional<NvrtcResult> result;
  try {
    if (!own->process_) own->process_ = start(nvrtc, deadline);
    if (own->process_) result = ask(*own->process_, request, deadline);
  } catch (const Error&) {  // no process can be started here
  }
  own->failed_ = !result;
  if (own->failed_) own->process_.reset();
  return result && result->is_done() ? result : std::nullopt;
}

void set_nvrtc_helper(std::string path) { helper_path() = std::move(path); }

}  // namespace liger
