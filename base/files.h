// Whole-file reading and the publish protocol. Trouble is a value here, never an exception.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace liger {

// Reads a regular file without following a link at its last component, and only if its owner is
// this user or root. ENOENT, ESTALE (after one reopen), EIO, EACCES, a short read: nullopt.
std::optional<std::string> read_file(const std::string& path);

// For a file that the user names: follows links, and any owner will do. Empty, and the reason in
// `problem`, if it cannot be read or has more than `most_bytes`.
std::optional<std::string> read_any_file(const std::string& path, uint64_t most_bytes,
                                         std::string& problem);

// Tells whether a name still stands for the file that was read.
struct FileStamp {
  uint64_t inode = 0;
  uint64_t size_bytes = 0;
  int64_t modified_ns = 0;
  bool operator==(const FileStamp&) const = default;
};

struct StampedFile {
  std::string bytes;
  FileStamp stamp;
  std::string problem;  // empty, or why what stands there is not to be used: then no bytes
};

// As read_file, and stricter: what others could have written is not to be used either, nor what is
// larger than any entry. Empty when nothing is there or the file server is in trouble.
std::optional<StampedFile> read_stamped_file(const std::string& path);

// Renames only while `from` is still the stamped file; removes it where it cannot be moved. False
// when it still stands.
bool move_if_unchanged(const std::string& from, const FileStamp& stamp, const std::string& to);

enum class Publish {
  written,  // this process's bytes are now the file
  existed,  // somebody was first; their file stands
  failed,   // nothing was left behind; `error` says why
};

struct PublishResult {
  Publish outcome = Publish::failed;
  std::string error;
};

// Writes bytes under a temporary name in the same folder (O_EXCL), checks close() and the size,
// then link()s to `path`: first writer wins, an open file is never replaced, a crash leaves at most
// a temporary. Folders are made with mode 0700. No fsync: a checksum turns a torn file into a miss.
PublishResult publish_file(const std::string& path, std::string_view bytes);

// As publish_file, but the newest bytes win (rename): for records that grow.
PublishResult replace_file(const std::string& path, std::string_view bytes);

// Empty if the folder (or, where it does not exist, the nearest parent that does) may be trusted:
// each component owned by this user or root and not writable by others unless sticky. Else says
// what is wrong and the command that mends it.
std::string distrust_reason(const std::string& folder);

bool make_folders(const std::string& folder);  // mode 0700 for each new one

// True if the folder, or the nearest parent that exists, is a folder this user may write.
bool may_write_folder(const std::string& folder);

// Size and time of a plain file, without reading it.
std::optional<FileStamp> stamp_of(const std::string& path);

// Sets the time of a file to now, by the file server's clock. False if that is refused.
bool touch_file(const std::string& path);

std::optional<int64_t> modified_seconds(const std::string& path);

// What a file made now in this folder gets as its time: the clock of the file server, not ours.
std::optional<int64_t> clock_seconds_of(const std::string& folder);

// Every temporary's name starts with this, so that those of dead writers can be swept.
inline constexpr std::string_view temporary_prefix = ".tmp-";
bool is_temporary(const std::string& path);

std::vector<std::string> list_files(
    const std::string& folder);  // regular files below, recursive, sorted
bool remove_file(const std::string& path);

}  // namespace liger
