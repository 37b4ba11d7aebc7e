// A file system of a few pages, to be filled. Needs root; a test skips where mounting is refused.
#pragma once

#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "tests/base/temporary_folder.h"

namespace liger {

class TinyDisk {
 public:
  TinyDisk() {
    if (::mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, "size=64k,mode=0700") != 0) {
      why_not_ = std::string("mount is refused: ") + std::strerror(errno);
    }
  }
  TinyDisk(const TinyDisk&) = delete;
  ~TinyDisk() {
    if (why_not_.empty()) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }

  static constexpr size_t too_many_bytes = 1 << 20;

  bool make_readonly() {
    return ::mount(nullptr, folder_.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0;
  }
  const std::string& why_not() const { return why_not_; }  // empty: it is there
  const std::string& path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
  std::string why_not_;
};

}  // namespace liger
