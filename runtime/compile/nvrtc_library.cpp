#include "runtime/compile/nvrtc_library.h"

#include <filesystem>

#include "base/error.h"
#include "base/text.h"

namespace liger {
namespace {

template <typename Function>
void bind(const SharedLibrary& library, const char* name, Function*& function) {
  function = library.function<Function>(name);
  if (!function)
    throw Error(ErrorKind::compile,
                fmt::format("{} has no {}: NVRTC 12.0 or newer is needed", library.path(), name));
}

}  // namespace

std::optional<int> stand_in_for(int wanted, const std::vector<int>& known) {
  std::optional<int> best;
  for (const int number : known) {
    if (number > wanted) continue;
    const bool is_newer = best && number / 10 > *best / 10;
    const bool is_first = best && number / 10 == *best / 10 && number < *best;
    if (!best || is_newer || is_first) best = number;
  }
  return best;
}

NvrtcLibrary::NvrtcLibrary(const std::vector<std::string>& candidates) : library(candidates) {
  if (!library.found())
    throw Error(ErrorKind::compile,
                fmt::format("NVRTC, the compiler for NVIDIA GPUs, was not found. Install it with "
                            "`pip install nvidia-cuda-nvrtc` (for CUDA 12: "
                            "nvidia-cuda-nvrtc-cu12) or set LIGER_JIT_NVRTC to libnvrtc.so. "
                            "Looked for:\n{}",
                            library.trace()));
  bind(library, "nvrtcCreateProgram", create);
  bind(library, "nvrtcDestroyProgram", destroy);
  bind(library, "nvrtcCompileProgram", compile);
  bind(library, "nvrtcGetProgramLogSize", log_size);
  bind(library, "nvrtcGetProgramLog", log);
  bind(library, "nvrtcGetCUBINSize", cubin_size);
  bind(library, "nvrtcGetCUBIN", cubin);
  bind(library, "nvrtcGetPTXSize", ptx_size);
  bind(library, "nvrtcGetPTX", ptx);
  bind(library, "nvrtcGetErrorString", error_text);
  bind(library, "nvrtcVersion", version);
  bind(library, "nvrtcGetNumSupportedArchs", architecture_count);
  bind(library, "nvrtcGetSupportedArchs", architecture_list);
  version(&major, &minor);
  if (!at_least(12, 0))  // the first that takes C++20
    throw Error(ErrorKind::compile, fmt::format("{} is NVRTC {}: 12.0 or newer is needed",
                                                library.path(), version_text()));
}

std::string NvrtcLibrary::version_text() const { return fmt::format("{}.{}", major, minor); }

bool NvrtcLibrary::at_least(int wanted_major, int wanted_minor) const {
  return major > wanted_major || (major == wanted_major && minor >= wanted_minor);
}

std::string NvrtcLibrary::build() const {
  std::error_code ignored;
  const std::filesystem::path file = std::filesystem::canonical(library.path(), ignored);
  const std::filesystem::path builtins =
      file.parent_path() / fmt::format("libnvrtc-builtins.so.{}", version_text());
  const bool beside = std::filesystem::exists(builtins, ignored);
  return fmt::format("build {} builtins {}", build_identity(library.path()),
                     beside ? build_identity(builtins.string()) : "none");
}

std::vector<int> NvrtcLibrary::architectures() const {
  int count = 0;
  if (architecture_count(&count) != nvrtc_success) return {};
  std::vector<int> numbers(static_cast<size_t>(count));
  if (architecture_list(numbers.data()) != nvrtc_success) return {};
  return numbers;
}

}  // namespace liger
