// Bytes by key on disk. Knows no kernel and no GPU. The protocol is in FORMAT.md.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cache/entry.h"
#include "cache/key.h"

namespace liger {

enum class Shelf : uint8_t {
  artifact,  // a/: compiled kernels, written once
  tune,      // t/: measured times, replaced as they grow
};

struct StoredFile {
  std::string path;
  Shelf shelf;
  uint64_t size_bytes = 0;
  int64_t modified_seconds = 0;
  std::optional<Entry> entry;  // empty: does not verify
};

class Store {
 public:
  // `folder` empty: memory only, every read a miss. An untrusted or unwritable folder costs one
  // warning, and the process goes on without it. With Writing::forbidden nothing is made, moved or
  // written there.
  enum class Writing { allowed, forbidden };
  explicit Store(std::string folder, std::vector<std::string> readonly_folders = {},
                 Writing writing = Writing::allowed);

  // The process's own, from the environment.
  static Store& user();

  // First layer that verifies wins. Any trouble is a miss and a counter. A corrupt file is moved
  // aside so that the next publish can mend it.
  std::optional<Entry> read(Shelf shelf, const Key& key);

  // Best effort: the caller goes on with the bytes it has whatever happens. After a failure such as
  // a full disk, one warning is printed and this process writes no more. A kernel that is there
  // stays unless `replace` is set.
  void publish(Shelf shelf, const Key& key, std::string_view meta, std::string_view payload,
               bool replace = false);

  const std::string& folder() const { return folder_; }  // empty when memory only
  std::string why_memory_only() const { return why_memory_only_; }

  // For the command line. The list shows the read-only folders too; clear() and sweep() never touch
  // them.
  std::vector<StoredFile> list() const;
  uint64_t clear();  // number of files removed
  uint64_t sweep();  // temporaries of dead writers (older than an hour) removed

 private:
  std::optional<Entry> read_layer(const std::string& path, const Key& key, bool may_move_aside);
  void go_memory_only(std::string reason);

  std::string folder_;
  std::vector<std::string> readonly_folders_;
  std::string why_memory_only_;
  const Writing writing_;
  std::atomic<bool> may_write_{true};
};

}  // namespace liger
