// The writing half of files.h: how bytes become a file that no reader ever sees half written.
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/files.h"
#include "base/text.h"

namespace liger {
namespace {

constexpr int most_attempts = 3;

enum class Rule { first_wins, newest_wins };

struct Attempt {
  Publish outcome = Publish::failed;
  int error_number = 0;
};

uint64_t random_bits() {
  uint64_t bits = 0;
  if (::getrandom(&bits, sizeof bits, GRND_NONBLOCK) == sizeof bits) return bits;
  // O_EXCL still guards the name; the clock only makes a clash unlikely.
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

// Unlike every other writer's, on this machine or on another that shares the folder.
std::string temporary_path(const std::string& folder) {
  char host[33] = {};
  ::gethostname(host, sizeof host - 1);
  for (char* letter = host; *letter != 0; ++letter) {
    if (std::isalnum(static_cast<unsigned char>(*letter)) == 0) *letter = '_';
  }
  return fmt::format("{}/{}{}-{}-{}-{:016x}", folder, temporary_prefix, host, ::getpid(),
                     ::syscall(SYS_gettid), random_bits());
}

// 0 or an errno.
int write_all(int file, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    if (written == 0) return EIO;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

// A new file that holds all the bytes, or none at all. 0 or an errno.
int write_temporary(const std::string& path, std::string_view bytes) {
  int file = -1;
  do {
    file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  } while (file < 0 && errno == EINTR);
  if (file < 0) return errno;
  int trouble = write_all(file, bytes);
  // NFS tells of a full disk or quota only here.
  if (::close(file) != 0 && errno != EINTR && trouble == 0) trouble = errno;
  struct stat status = {};
  if (trouble == 0 && ::lstat(path.c_str(), &status) != 0) trouble = errno;
  if (trouble == 0 && static_cast<size_t>(status.st_size) != bytes.size()) trouble = EIO;
  if (trouble != 0) ::unlink(path.c_str());
  return trouble;
}

Attempt rename_over(const std::string& temporary, const std::string& path) {
  if (::rename(temporary.c_str(), path.c_str()) == 0) return {Publish::written, 0};
  return {Publish::failed, errno};
}

// Gives the temporary its name unless the name is taken.
Attempt link_new(const std::string& temporary, const std::string& path) {
  if (::link(temporary.c_str(), path.c_str()) == 0) return {Publish::written, 0};
  const int link_error = errno;
  struct stat status = {};
  // A request that NFS repeated answers with an error although the link was made.
  if (::lstat(temporary.c_str(), &status) == 0 && status.st_nlink == 2) {
    return {Publish::written, 0};
  }
  if (link_error == EEXIST) return {Publish::existed, 0};
  // This file system may have no hard links.
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0) {
    return {Publish::written, 0};
  }
  if (errno == EEXIST) return {Publish::existed, 0};
  if (errno != EINVAL && errno != ENOSYS) return {Publish::failed, errno};
  if (::lstat(path.c_str(), &status) == 0) return {Publish::existed, 0};
  return rename_over(temporary, path);
}

Attempt try_once(const std::string& folder, const std::string& path, std::string_view bytes,
                 Rule rule) {
  const std::string temporary = temporary_path(folder);
  if (const int trouble = write_temporary(temporary, bytes)) return {Publish::failed, trouble};
  const Attempt attempt =
      rule == Rule::first_wins ? link_new(temporary, path) : rename_over(temporary, path);
  ::unlink(temporary.c_str());
  return attempt;
}

PublishResult publish(const std::string& path, std::string_view bytes, Rule rule) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) folder = ".";
  Attempt attempt;
  for (int i = 0; i < most_attempts; ++i) {
    attempt = try_once(folder, path, bytes, rule);
    if (attempt.outcome != Publish::failed) return {attempt.outcome, {}};
    // The folder is new, or somebody emptied the cache between two steps.
    if (attempt.error_number != ENOENT) break;
    if (!make_folders(folder)) {
      attempt.error_number = errno;
      break;
    }
  }
  return {Publish::failed, fmt::format("{}: {}", path, std::strerror(attempt.error_number))};
}

}  // namespace

PublishResult publish_file(const std::string& path, std::string_view bytes) {
  return publish(path, bytes, Rule::first_wins);
}

PublishResult replace_file(const std::string& path, std::string_view bytes) {
  return publish(path, bytes, Rule::newest_wins);
}

std::optional<int64_t> clock_seconds_of(const std::string& folder) {
  const std::string probe = temporary_path(folder);
  if (write_temporary(probe, "") != 0) return std::nullopt;
  const std::optional<int64_t> now_seconds = modified_seconds(probe);
  ::unlink(probe.c_str());
  return now_seconds;
}

bool is_temporary(const std::string& path) {
  return std::string_view(path).substr(path.find_last_of('/') + 1).starts_with(temporary_prefix);
}

}  // namespace liger
