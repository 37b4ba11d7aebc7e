#include "base/shared_library.h"

#include <dlfcn.h>
#include <link.h>

#include <filesystem>

#include "base/text.h"

namespace liger {
namespace {

std::string file_of(void* handle) {
  link_map* map = nullptr;
  if (::dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || map == nullptr) return "";
  return map->l_name;
}

}  // namespace

SharedLibrary::SharedLibrary(const std::vector<std::string>& candidates) {
  for (const std::string& candidate : candidates) {
    handle_ = ::dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) {
      path_ = file_of(handle_);
      trace_ += fmt::format("{}: loaded {}\n", candidate, path_);
      return;
    }
    const char* answer = ::dlerror();
    trace_ += fmt::format("{}: {}\n", candidate, answer == nullptr ? "not loaded" : answer);
  }
}

void* SharedLibrary::symbol(const char* name) const {
  return found() ? ::dlsym(handle_, name) : nullptr;
}

std::string library_of(const void* code) {
  Dl_info place = {};
  if (::dladdr(code, &place) == 0) return "";
  std::error_code trouble;
  return std::filesystem::canonical(place.dli_fname, trouble).string();
}

std::string own_library() { return library_of(reinterpret_cast<const void*>(&own_library)); }

std::string own_folder() { return std::filesystem::path(own_library()).parent_path().string(); }

}  // namespace liger
