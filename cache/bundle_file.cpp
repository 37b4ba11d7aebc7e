#include "cache/bundle_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/files.h"
#include "base/text.h"
#include "cache/bundle_format.h"

namespace liger {
namespace {

// All of `bytes` from a place in the file, or false.
bool read_at(int file, uint64_t at, std::string& bytes) {
  size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t got = ::pread(file, bytes.data() + filled, bytes.size() - filled,
                                static_cast<off_t>(at + filled));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    filled += static_cast<size_t>(got);
  }
  return true;
}

// Where the links of a path lead, if only this user or root can have put them there. Else empty.
std::string followed(const std::string& path, std::string& problem) {
  constexpr int most_links = 40;
  std::filesystem::path here = path;
  for (int i = 0; i < most_links; ++i) {
    problem = distrust_reason(here.parent_path().string());
    if (!problem.empty()) return "";
    std::error_code is_no_link;
    const std::filesystem::path target = std::filesystem::read_symlink(here, is_no_link);
    if (is_no_link) return here.string();
    here = here.parent_path() / target;  // an absolute one stands for itself
  }
  problem = "its links lead nowhere";
  return "";
}

std::string distrust(const std::string& path, const struct stat& status) {
  if (status.st_uid != geteuid() && status.st_uid != 0) {
    return fmt::format("it belongs to another user ({})", status.st_uid);
  }
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return fmt::format("it can be written by other users; mend: chmod go-w '{}'", path);
  }
  return "";
}

}  // namespace

std::unique_ptr<BundleFile> BundleFile::open(const std::string& path, Origin origin,
                                             std::string& problem) {
  const bool any = origin == Origin::anywhere;
  const std::string file_path = any ? followed(path, problem) : path;
  if (!problem.empty()) return nullptr;
  auto bundle = std::make_unique<BundleFile>();
  bundle->path_ = path;
  bundle->file_ =
      Descriptor(::open(file_path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  const int file = bundle->file_.number();
  struct stat status = {};
  if (file < 0 || ::fstat(file, &status) != 0) {
    problem = std::strerror(errno);
  } else if (!S_ISREG(status.st_mode)) {
    problem = "it is not a file";
  } else if (any) {
    problem = distrust(file_path, status);
  }
  if (!problem.empty()) return nullptr;

  const auto file_bytes = static_cast<uint64_t>(status.st_size);
  std::string head(std::min<uint64_t>(bundle_header_bytes, file_bytes), '\0');
  if (!read_at(file, 0, head)) {
    problem = "it cannot be read";
    return nullptr;
  }
  if (file_bytes <= most_bundle_bytes && head.starts_with(bundle_magic)) {
    if (const auto head_bytes = bundle_head_bytes(head, file_bytes)) {
      head.resize(*head_bytes);
      if (!read_at(file, 0, head)) head.clear();
    }
  }
  bundle->index_ = parse_bundle_head(head, file_bytes);
  if (!bundle->index_.ok()) {
    problem = bundle->index_.problem;
    return nullptr;
  }
  return bundle;
}

BundleFile::Answer BundleFile::read(EntryKind kind, const Hash128& key_hash,
                                    std::optional<Entry>& entry) const {
  const BundleRecord* record = index_.find(kind, key_hash);
  if (record == nullptr) return Answer::absent;
  // The entry's own hash guards against accidents, and against people the owner of the file does.
  entry = read_record(*record, false);
  return entry ? Answer::hit : Answer::damaged;
}

std::optional<Entry> BundleFile::read_deep(const BundleRecord& record) const {
  return read_record(record, true);
}

std::optional<Entry> BundleFile::read_record(const BundleRecord& record, bool deep) const {
  std::string frame(record.frame_bytes, '\0');
  if (!read_at(file_.number(), record.frame_at, frame)) return std::nullopt;
  return unpack_entry(record, frame, deep);
}

}  // namespace liger
