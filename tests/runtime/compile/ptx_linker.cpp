#include "tests/runtime/compile/ptx_linker.h"

#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "base/text.h"

namespace liger {
namespace {

using Link = void*;  // nvJitLinkHandle
constexpr int ptx_input = 2;

}  // namespace

std::optional<PtxLinker> PtxLinker::named() {
  const char* const path = std::getenv("TORTURE_NVJITLINK");
  if (!path || !*path) return std::nullopt;
  PtxLinker linker(path);
  return linker.library_->found() ? std::optional(linker) : std::nullopt;
}

// The library's names carry the release whose interface they have.
template <class... Arguments>
int PtxLinker::call(const char* name, Arguments... arguments) const {
  const auto function =
      library_->function<int(Arguments...)>(fmt::format("__nvJitLink{}_13_0", name).c_str());
  if (!function)
    throw Error(ErrorKind::compile, fmt::format("{} has no nvJitLink{}", library_->path(), name));
  return function(arguments...);
}

std::string PtxLinker::finish(const std::string& ptx, const std::string& arch) const {
  const std::string option = "-arch=" + arch;
  const char* options[] = {option.c_str()};
  Link link = nullptr;
  int result = call("Create", &link, uint32_t{1}, static_cast<const char**>(options));
  if (result == 0)
    result = call("AddData", link, ptx_input, static_cast<const void*>(ptx.c_str()), ptx.size() + 1,
                  "unit");
  if (result == 0) result = call("Complete", link);
  size_t size_bytes = 0;
  std::string bytes;
  if (result == 0) {
    call("GetLinkedCubinSize", link, &size_bytes);
    bytes.resize(size_bytes);
    call("GetLinkedCubin", link, static_cast<void*>(bytes.data()));
  } else if (link) {
    call("GetErrorLogSize", link, &size_bytes);
    bytes.resize(size_bytes);
    call("GetErrorLog", link, bytes.data());
  }
  if (link) call("Destroy", &link);
  if (result != 0)
    throw Error(ErrorKind::compile,
                fmt::format("nvJitLink says {} for {}: {}", result, arch, bytes.c_str()));
  return bytes;
}

}  // namespace liger
