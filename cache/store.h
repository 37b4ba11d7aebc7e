// Bytes by key on disk. Knows no kernel and no GPU. The protocol is in FORMAT.md.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cache/bundle_file.h"
#include "cache/entry.h"
#include "cache/eviction.h"
#include "cache/key.h"

namespace liger {

struct StoredFile {
  std::string path;   // of a bundle's entry: that of the bundle
  std::string layer;  // the folder or bundle that has it
  std::string name;   // `a/<32 hex>` or `t/<32 hex>`
  EntryKind kind;
  uint64_t size_bytes = 0;
  int64_t modified_seconds = 0;
  std::optional<Entry> entry;  // empty: does not verify, or its key is not that of its name
};

// What is searched after the user's folder: a folder of the same layout, or a bundle.
struct ReadonlyLayer {
  std::string path;
  bool is_bundle = false;
  std::unique_ptr<BundleFile> bundle;  // null for a folder, or where there is a problem
  std::string problem;                 // not empty: not in use, for this reason
};

struct Imported {
  std::string problem;  // not empty: refused, and nothing was written
  BundleIndex index;
  uint64_t written = 0;
  uint64_t existed = 0;
  uint64_t failed = 0;  // the disk refused them; why is in the warning
};

class Store {
 public:
  // `prune_to_bytes`: after the first publish of the process a thread of low priority prunes the
  // folder to that, if nobody did today; 0: never. `seed`: a bundle that came with the library and
  // is the last layer, if it is there.
  struct Options {
    bool readonly = false;  // nothing is made, moved or written in the folder
    uint64_t prune_to_bytes = 0;
    std::string seed;
  };

  // `folder` empty: memory only, every read a miss. An untrusted or unwritable folder, and a layer
  // that is, costs one warning, and the process goes on without it.
  explicit Store(std::string folder, const std::vector<std::string>& readonly_layers,
                 Options options);
  explicit Store(std::string folder, const std::vector<std::string>& readonly_layers = {})
      : Store(std::move(folder), readonly_layers, Options{}) {}

  // The process's own, from the environment. Its last layer is the seed, a bundle beside the
  // library, if there is one.
  static Store& user();

  // First layer that verifies wins. Any trouble is a miss and a counter. A corrupt file is moved
  // aside so that the next publish can mend it.
  std::optional<Entry> read(EntryKind kind, const Key& key);

  // Best effort: the caller goes on with the bytes it has whatever happens. After a failure such as
  // a full disk, one warning is printed and this process writes no more. A kernel that is there
  // stays unless `replace` is set.
  void publish(EntryKind kind, const Key& key, std::string_view meta, std::string_view payload,
               bool replace = false);

  // From any layer, by what an entry's name says; counts nothing.
  std::optional<Entry> find(EntryKind kind, const Hash128& key_hash) const;

  // The keys (Key::bytes) of all entries that verify, of all layers: reads each of them once.
  std::vector<std::string> keys(EntryKind kind) const;

  // Verifies the whole bundle before it writes anything. What the folder has, stays.
  Imported import_bundle(const std::string& path);

  const std::string& folder() const { return folder_; }  // empty when memory only
  std::string why_memory_only() const { return why_memory_only_; }

  const std::vector<ReadonlyLayer>& readonly_layers() const { return readonly_layers_; }

  // For the command line. The list shows the read-only layers too; the others never touch them.
  std::vector<StoredFile> list() const;
  uint64_t clear();  // number of files removed
  uint64_t sweep();  // temporaries of dead writers removed
  Pruned prune(uint64_t most_bytes);
  // Moves what does not verify to quarantine, so that the next use makes it anew; the paths.
  std::vector<std::string> repair();

 private:
  std::optional<Entry> read_layer(const std::string& path, const Key& key, bool may_move_aside);
  std::optional<Entry> read_bundle(const BundleFile& bundle, EntryKind kind, const Key& key);
  void go_memory_only(std::string reason);
  void add_layer(std::string path, BundleFile::Origin origin);
  void prune_in_background();
  std::string root() const;  // of this schema, in the folder
  bool may_change() const { return !folder_.empty() && !options_.readonly; }

  std::string folder_;
  const Options options_;
  std::vector<ReadonlyLayer> readonly_layers_;
  std::once_flag prune_once_;
  std::string why_memory_only_;
  std::atomic<bool> may_write_{true};
};

}  // namespace liger
