// A folder that only this user can enter, removed with its contents at the end of the scope.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "base/error.h"

namespace liger {

class PrivateFolder {
 public:
  PrivateFolder() {
    std::error_code ignored;
    const std::filesystem::path parent = std::filesystem::temp_directory_path(ignored);
    path_ = (parent.empty() ? "/tmp" : parent.string()) + "/liger-XXXXXX";
    if (!mkdtemp(path_.data()))  // mode 0700
      throw Error(ErrorKind::compile, "cannot make a folder like " + path_ +
                                          ": set TMPDIR to a folder that can be written");
  }
  ~PrivateFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  PrivateFolder(const PrivateFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace liger
