// distrust_reason() of files.h: who else could put a file into this folder?
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>

#include "base/files.h"
#include "base/text.h"

namespace liger {
namespace {

constexpr int most_links = 40;

// Puts the parts of a path in front of those still to be walked.
void push_parts(std::deque<std::string>& parts, const std::filesystem::path& path) {
  std::deque<std::string> first;
  for (const auto& part : path.relative_path()) first.push_back(part.string());
  parts.insert(parts.begin(), first.begin(), first.end());
}

std::string wrong_with(const std::string& path, const struct stat& status) {
  if (status.st_uid != geteuid() && status.st_uid != 0) {
    return fmt::format("{} belongs to another user ({}); mend: chown {} '{}'", path, status.st_uid,
                       geteuid(), path);
  }
  if (S_ISLNK(status.st_mode)) return "";
  if (!S_ISDIR(status.st_mode)) return fmt::format("{} is not a folder", path);
  const bool others_write = (status.st_mode & (S_IWGRP | S_IWOTH)) != 0;
  // In a sticky folder nobody can rename or remove what is ours.
  if (others_write && (status.st_mode & S_ISVTX) == 0) {
    return fmt::format("{} can be written by other users; mend: chmod go-w '{}'", path, path);
  }
  return "";
}

}  // namespace

// Walks the way the kernel does, one component at a time, so that a link is judged by its own owner
// and then by every folder it leads through.
std::string distrust_reason(const std::string& folder) {
  std::error_code trouble;
  std::deque<std::string> parts;
  push_parts(parts, std::filesystem::absolute(folder, trouble));
  if (trouble) return fmt::format("{}: {}", folder, trouble.message());

  std::filesystem::path resolved = "/";
  int links_left = most_links;
  struct stat status = {};
  if (::lstat("/", &status) != 0) return fmt::format("/: {}", std::strerror(errno));
  std::string reason = wrong_with("/", status);
  while (reason.empty() && !parts.empty()) {
    const std::string part = parts.front();
    parts.pop_front();
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      resolved = resolved.parent_path();
      continue;
    }
    const std::filesystem::path here = resolved / part;
    if (::lstat(here.c_str(), &status) != 0) {
      if (errno == ENOENT) return "";
      return fmt::format("{}: {}", here.string(), std::strerror(errno));
    }
    reason = wrong_with(here.string(), status);
    if (!S_ISLNK(status.st_mode)) {
      resolved = here;
      continue;
    }
    const std::filesystem::path target = std::filesystem::read_symlink(here, trouble);
    if (trouble || --links_left < 0) return fmt::format("{} leads nowhere", here.string());
    if (target.is_absolute()) resolved = "/";
    push_parts(parts, target);
  }
  return reason;
}

}  // namespace liger
