// A folder that only this user can enter, removed with its contents at the end of the scope.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"

namespace liger {

// One thread's, for a scope. Only refuse() raises: where no folder can be made, its path is empty.
class PrivateFolder {
 public:
  // Below that folder; empty path() where it cannot be made.
  explicit PrivateFolder(const std::string& parent) : path_(parent + "/liger-XXXXXX") {
    if (!mkdtemp(path_.data())) path_.clear();  // mode 0700
  }
  ~PrivateFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  PrivateFolder(const PrivateFolder&) = delete;

  const std::string& path() const { return path_; }

  // For a program that works in it: it leaves its files there, and finds no settings of the user's.
  std::vector<std::string> as_environment() const {
    if (path_.empty()) return {};
    return {"TMPDIR=" + path_, "HOME=" + path_};
  }

  // Whether a library would find room in it: what failed here may succeed in another place if not.
  bool has_room() const {
    const std::string probe = path_ + "/probe";
    std::ofstream stream(probe, std::ios::binary);
    stream << std::string(256 * 1024, 'x');
    stream.close();
    const bool room = stream.good();
    std::error_code ignored;
    std::filesystem::remove(probe, ignored);
    return room;
  }

  // Where temporary files may go, the user's wish first: a full or forbidden one is no end.
  static std::vector<std::string> places() {
    std::error_code ignored;
    const std::filesystem::path asked = std::filesystem::temp_directory_path(ignored);
    std::vector<std::string> places = {asked.empty() ? "/tmp" : asked.string()};
    for (const char* place : {"/dev/shm", "/var/tmp", "/tmp"}) {
      if (place != places.front()) places.emplace_back(place);
    }
    return places;
  }

  [[noreturn]] static void refuse() {
    std::string looked;
    for (const std::string& place : places()) looked += (looked.empty() ? "" : ", ") + place;
    throw Error(ErrorKind::compile, "no folder for temporary files can be written, of " + looked +
                                        ": set TMPDIR to one that can");
  }

 private:
  std::string path_;
};

}  // namespace liger
