#include "base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/descriptor.h"
#include "base/text.h"

namespace liger {
namespace {

constexpr size_t read_step_bytes = 64 * 1024;
// A file system that lost its mind may claim any size; memory is not taken on its word.
constexpr off_t most_entry_bytes = off_t{256} << 20;

enum class Strictness { any_file, entry };

FileStamp stamp_from(const struct stat& status) {
  return {static_cast<uint64_t>(status.st_ino), static_cast<uint64_t>(status.st_size),
          static_cast<int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec};
}

// Reads to the end, whatever size the file claims: those in /proc claim none. 0 or an errno.
int read_to_end(int file, std::string& bytes, size_t expected_bytes) {
  size_t filled = 0;
  bytes.resize(expected_bytes + 1);
  while (true) {
    if (filled == bytes.size()) bytes.resize(bytes.size() + read_step_bytes);
    const ssize_t got = ::read(file, bytes.data() + filled, bytes.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  bytes.resize(filled);
  return filled < expected_bytes ? EIO : 0;
}

std::string wrong_with(const struct stat& status, Strictness strictness) {
  if (!S_ISREG(status.st_mode)) return "is no plain file";
  if (status.st_uid != geteuid() && status.st_uid != 0) {
    return fmt::format("belongs to another user ({})", status.st_uid);
  }
  if (strictness == Strictness::any_file) return "";
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) return "can be written by other users";
  if (status.st_size > most_entry_bytes) return fmt::format("has {} bytes", status.st_size);
  return "";
}

// O_NONBLOCK: opening a named pipe that somebody left here must not hang.
Descriptor open_to_read(const std::string& path) {
  int file = -1;
  do {
    file = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  } while (file < 0 && errno == EINTR);
  return Descriptor(file);
}

// 0 or an errno; 0 with a problem for what stands there and is not to be used.
int read_once(const std::string& path, Strictness strictness, StampedFile& result) {
  const Descriptor file = open_to_read(path);
  const int open_error = file.is_open() ? 0 : errno;
  struct stat status = {};
  const int answer =
      file.is_open() ? ::fstat(file.number(), &status) : ::lstat(path.c_str(), &status);
  if (answer != 0) return open_error != 0 ? open_error : errno;
  result.stamp = stamp_from(status);
  result.problem = wrong_with(status, strictness);
  if (!result.problem.empty()) return 0;
  if (open_error != 0) return open_error;
  return read_to_end(file.number(), result.bytes, static_cast<size_t>(status.st_size));
}

std::optional<StampedFile> read_twice(const std::string& path, Strictness strictness) {
  StampedFile result;
  int trouble = read_once(path, strictness, result);
  // A file server may have replaced the file between its name and its contents.
  if (trouble == ESTALE) trouble = read_once(path, strictness, result);
  if (trouble != 0) return std::nullopt;
  return result;
}

std::string parent_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

std::optional<StampedFile> read_stamped_file(const std::string& path) {
  return read_twice(path, Strictness::entry);
}

std::optional<std::string> read_file(const std::string& path) {
  std::optional<StampedFile> file = read_twice(path, Strictness::any_file);
  if (!file || !file->problem.empty()) return std::nullopt;
  return std::move(file->bytes);
}

std::optional<std::string> read_any_file(const std::string& path, uint64_t most_bytes,
                                         std::string& problem) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status = {};
  std::string bytes;
  if (!file.is_open() || ::fstat(file.number(), &status) != 0) {
    problem = std::strerror(errno);
  } else if (!S_ISREG(status.st_mode)) {
    problem = "it is not a file";
  } else if (static_cast<uint64_t>(status.st_size) > most_bytes) {
    problem = fmt::format("it has {} bytes; at most {} are read", status.st_size, most_bytes);
  } else if (const int trouble =
                 read_to_end(file.number(), bytes, static_cast<size_t>(status.st_size))) {
    problem = std::strerror(trouble);
  } else {
    return bytes;
  }
  return std::nullopt;
}

bool move_if_unchanged(const std::string& from, const FileStamp& stamp, const std::string& to) {
  struct stat status = {};
  if (::lstat(from.c_str(), &status) != 0 || stamp_from(status) != stamp) return false;
  return ::rename(from.c_str(), to.c_str()) == 0 || ::unlink(from.c_str()) == 0;
}

bool make_folders(const std::string& folder) {
  if (folder.empty()) return false;
  if (::mkdir(folder.c_str(), 0700) == 0) return true;
  if (errno == ENOENT) {
    const std::string parent = parent_of(folder);
    if (parent == folder || !make_folders(parent)) return false;
    if (::mkdir(folder.c_str(), 0700) == 0) return true;
  }
  // Another process may have been first.
  struct stat status = {};
  return errno == EEXIST && ::stat(folder.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool may_write_folder(const std::string& folder) {
  std::string nearest = folder;
  struct stat status = {};
  while (::stat(nearest.c_str(), &status) != 0) {
    const std::string parent = parent_of(nearest);
    if (errno != ENOENT || parent == nearest) return false;
    nearest = parent;
  }
  return S_ISDIR(status.st_mode) &&
         ::faccessat(AT_FDCWD, nearest.c_str(), W_OK | X_OK, AT_EACCESS) == 0;
}

std::vector<std::string> list_files(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<std::string> paths;
  std::error_code trouble;
  fs::recursive_directory_iterator walk(folder, fs::directory_options::skip_permission_denied,
                                        trouble);
  // What others remove while we walk is not an error of ours: the list is what was seen.
  while (!trouble && walk != fs::recursive_directory_iterator()) {
    std::error_code gone;
    if (walk->symlink_status(gone).type() == fs::file_type::regular) {
      paths.push_back(walk->path().string());
    }
    walk.increment(trouble);
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::optional<FileStamp> stamp_of(const std::string& path) {
  struct stat status = {};
  if (::lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  return stamp_from(status);
}

bool touch_file(const std::string& path) {
  const timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
  return ::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) == 0;
}

std::optional<int64_t> modified_seconds(const std::string& path) {
  struct stat status = {};
  if (::lstat(path.c_str(), &status) != 0) return std::nullopt;
  return static_cast<int64_t>(status.st_mtim.tv_sec);
}

bool remove_file(const std::string& path) { return ::unlink(path.c_str()) == 0; }

}  // namespace liger
