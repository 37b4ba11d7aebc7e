#include "runtime/compile/hip_libraries.h"

#include <filesystem>

#include "base/environment.h"
#include "runtime/compile/library_search.h"

namespace liger {

std::vector<std::string> hip_runtime_candidates() {
  const std::string& asked = environment().hip_library;
  if (!asked.empty()) return {asked};
  return joined(
      {loaded_libraries("libamdhip64.so"),
       packaged_libraries({"torch/lib/libamdhip64.so", "_rocm_sdk_core/lib/libamdhip64.so.7"}),
       {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"},
       {"/opt/rocm/lib/libamdhip64.so"}});
}

std::vector<std::string> hiprtc_candidates() {
  std::vector<std::string> candidates;
  for (const std::string& runtime : hip_runtime_candidates()) {
    const std::filesystem::path folder = std::filesystem::path(runtime).parent_path();
    const std::string file = std::filesystem::path(runtime).filename().string();
    const size_t suffix = file.find(".so");
    if (suffix != std::string::npos)
      candidates.push_back((folder / ("libhiprtc" + file.substr(suffix))).string());
    candidates.push_back(runtime);
  }
  return joined({candidates});
}

}  // namespace liger
