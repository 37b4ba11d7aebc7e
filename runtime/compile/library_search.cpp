#include "runtime/compile/library_search.h"

#include <link.h>

#include <algorithm>
#include <filesystem>

#include "base/shared_library.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

int add_path(dl_phdr_info* library, size_t, void* paths) {
  if (library->dlpi_name && library->dlpi_name[0] == '/')
    static_cast<std::vector<std::string>*>(paths)->push_back(library->dlpi_name);
  return 0;
}

std::vector<std::string> folders_above(const std::string& path) {
  std::vector<std::string> folders;
  for (fs::path folder = path; folder.has_relative_path(); folder = folder.parent_path())
    folders.push_back(folder.string());
  return folders;
}

}  // namespace

std::vector<std::string> loaded_libraries(const std::string& prefix) {
  std::vector<std::string> paths;
  dl_iterate_phdr(add_path, &paths);
  std::erase_if(paths, [&](const std::string& path) {
    return !fs::path(path).filename().string().starts_with(prefix);
  });
  return paths;
}

std::vector<std::string> packaged_libraries(const std::vector<std::string>& relative_paths) {
  std::vector<std::string> found;
  for (const std::string& start : joined({{own_folder()}, loaded_libraries("libtorch")}))
    for (const std::string& folder : folders_above(start))
      for (const std::string& relative : relative_paths) {
        std::error_code ignored;
        const fs::path path = fs::path(folder) / relative;
        if (fs::exists(path, ignored)) found.push_back(path.string());
      }
  return joined({found});
}

std::vector<std::string> joined(const std::vector<std::vector<std::string>>& lists) {
  std::vector<std::string> all;
  for (const auto& list : lists)
    for (const std::string& path : list)
      if (std::ranges::find(all, path) == all.end()) all.push_back(path);
  return all;
}

}  // namespace liger
