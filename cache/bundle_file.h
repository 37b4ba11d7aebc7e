// A bundle on disk as a layer that is read and never written.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/descriptor.h"
#include "cache/bundle.h"
#include "cache/key.h"

namespace liger {

class BundleFile {
 public:
  // `ours`: it came with the library, so who could have written it could have written the library.
  enum class Origin { anywhere, ours };

  // Reads the index; entries stay in the file until they are asked for. Null, and the reason in
  // `problem`, if it is no sound bundle or, unless it is ours, somebody else could have written it.
  // Links are followed, each judged by the folder that it stands in.
  static std::unique_ptr<BundleFile> open(const std::string& path, Origin origin,
                                          std::string& problem);

  enum class Answer { hit, absent, damaged };
  Answer read(EntryKind kind, const Hash128& key_hash, std::optional<Entry>& entry) const;

  const std::string& path() const { return path_; }
  const BundleIndex& index() const { return index_; }

  // One after the other; nothing for an entry that is damaged. Compares the SHA-256 too.
  std::optional<Entry> read_deep(const BundleRecord& record) const;

 private:
  std::optional<Entry> read_record(const BundleRecord& record, bool deep) const;

  std::string path_;
  Descriptor file_;  // stays open: a bundle that is replaced goes on serving what it held
  BundleIndex index_;
};

}  // namespace liger
