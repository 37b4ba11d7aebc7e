#include "cache/store.h"

#include "base/counters.h"
#include "base/environment.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "cache/entry_format.h"

namespace liger {
namespace {

// A writer needs milliseconds; one that is an hour old was killed.
constexpr int64_t kDeadWriterSeconds = 3600;

std::string folder_of(const std::string& root, std::string_view part) {
  return fmt::format("{}/{}/{}", root, kSchemaFolder, part);
}

std::string path_of(const std::string& root, Shelf shelf, const Hash128& hash) {
  const bool artifact = shelf == Shelf::artifact;
  const std::string hex = hash.hex();
  return fmt::format("{}/{}/{}{}", folder_of(root, artifact ? kArtifactFolder : kTuneFolder),
                     std::string_view(hex).substr(0, 2), hex,
                     artifact ? kArtifactSuffix : kTuneSuffix);
}

std::string name_of(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

bool is_temporary(const std::string& path) { return name_of(path).starts_with(kTemporaryPrefix); }

std::string quarantine_path(const std::string& root, const std::string& path) {
  return fmt::format("{}/{}", folder_of(root, kQuarantineFolder), name_of(path));
}

void add_files(std::vector<StoredFile>& files, const std::string& root, Shelf shelf,
               std::string_view part, std::string_view suffix) {
  for (const std::string& path : list_files(folder_of(root, part))) {
    if (!path.ends_with(suffix) || is_temporary(path)) continue;
    const std::optional<StampedFile> file = read_stamped_file(path);
    if (!file) continue;
    files.push_back({path, shelf, file->stamp.size_bytes, file->stamp.modified_ns / 1'000'000'000,
                     decode_entry(file->bytes)});
  }
}

}  // namespace

Store::Store(std::string folder, std::vector<std::string> readonly_folders, Writing writing)
    : folder_(std::move(folder)), writing_(writing) {
  for (std::string& layer : readonly_folders) {
    const std::string reason = distrust_reason(folder_of(layer, kArtifactFolder));
    if (reason.empty()) {
      readonly_folders_.push_back(std::move(layer));
    } else {
      warn_once("cache layer " + layer,
                fmt::format("the read-only cache {} is not used: {}", layer, reason));
    }
  }
  if (folder_.empty()) {
    why_memory_only_ = "no folder was given";
    return;
  }
  const std::string root = fmt::format("{}/{}", folder_, kSchemaFolder);
  std::string reason = distrust_reason(root);
  if (reason.empty() && writing_ == Writing::allowed && !make_folders(root))
    reason = root + " cannot be made";
  // Again, because in a place such as /tmp anybody may have made it just before us.
  if (reason.empty()) reason = distrust_reason(root);
  if (!reason.empty()) go_memory_only(std::move(reason));
}

void Store::go_memory_only(std::string reason) {
  warn_once("cache folder " + folder_,
            fmt::format("the cache {} is not used, so kernels are compiled anew in each process: "
                        "{}; or set LIGER_JIT_CACHE to a folder of your own",
                        folder_, reason));
  why_memory_only_ = std::move(reason);
  folder_.clear();
}

Store& Store::user() {
  static Store& the_store = *new Store(
      environment().cache_folder, environment().readonly_cache_folders,
      environment().cache_mode == CacheMode::readonly ? Writing::forbidden : Writing::allowed);
  return the_store;
}

std::optional<Entry> Store::read(Shelf shelf, const Key& key) {
  const Hash128 hash = key.hash();
  if (!folder_.empty()) {
    if (auto entry = read_layer(path_of(folder_, shelf, hash), key, writing_ == Writing::allowed)) {
      ++counters().hit_disk;
      return entry;
    }
  }
  for (const std::string& layer : readonly_folders_) {
    if (auto entry = read_layer(path_of(layer, shelf, hash), key, false)) {
      ++counters().hit_readonly;
      return entry;
    }
  }
  ++counters().miss_disk;
  return std::nullopt;
}

std::optional<Entry> Store::read_layer(const std::string& path, const Key& key,
                                       bool may_move_aside) {
  const std::optional<StampedFile> file = read_stamped_file(path);
  if (!file) return std::nullopt;
  std::optional<Entry> entry = decode_entry(file->bytes);
  if (entry && entry->key_bytes == key.bytes()) {
    if (log_enabled()) log_event(Event::hit, {{"file", path}});
    return entry;
  }

  ++counters().corrupt;
  std::string what = file->problem;
  if (what.empty()) what = entry ? "holds another key" : "is damaged";
  bool moved = false;
  if (may_move_aside) {
    make_folders(folder_of(folder_, kQuarantineFolder));
    moved = move_if_unchanged(path, file->stamp, quarantine_path(folder_, path));
  }
  log_event(Event::corrupt, {{"file", path}, {"moved", moved ? 1.0 : 0.0}});
  warn_once("cache corrupt " + folder_,
            fmt::format("the cache entry {} {} and is compiled anew; if this comes again, look at "
                        "the disk",
                        path, what));
  return std::nullopt;
}

void Store::publish(Shelf shelf, const Key& key, std::string_view meta, std::string_view payload,
                    bool replace) {
  if (folder_.empty() || writing_ == Writing::forbidden) return;
  if (!may_write_.load(std::memory_order_relaxed)) {
    ++counters().publish_failed;
    return;
  }
  const std::string path = path_of(folder_, shelf, key.hash());
  const std::string bytes = encode_entry(key.bytes(), meta, payload);
  const PublishResult result =
      shelf == Shelf::artifact && !replace ? publish_file(path, bytes) : replace_file(path, bytes);
  switch (result.outcome) {
    case Publish::written:
      ++counters().published;
      if (log_enabled()) log_event(Event::publish, {{"file", path}});
      break;
    case Publish::existed:
      break;
    case Publish::failed:
      ++counters().publish_failed;
      may_write_.store(false, std::memory_order_relaxed);
      warn_once("cache write " + folder_,
                fmt::format("the cache cannot be written ({}); this process goes on without "
                            "writing to it. Make room, or set LIGER_JIT_CACHE to another folder",
                            result.error));
      break;
  }
}

std::vector<StoredFile> Store::list() const {
  std::vector<std::string> roots = readonly_folders_;
  if (!folder_.empty()) roots.insert(roots.begin(), folder_);
  std::vector<StoredFile> files;
  for (const std::string& root : roots) {
    add_files(files, root, Shelf::artifact, kArtifactFolder, kArtifactSuffix);
    add_files(files, root, Shelf::tune, kTuneFolder, kTuneSuffix);
  }
  return files;
}

uint64_t Store::clear() {
  if (folder_.empty()) return 0;
  uint64_t removed = 0;
  for (const std::string_view part : {kArtifactFolder, kTuneFolder, kQuarantineFolder}) {
    for (const std::string& path : list_files(folder_of(folder_, part))) {
      // A temporary may belong to a writer at work; sweep() knows when it does not.
      if (!is_temporary(path) && remove_file(path)) ++removed;
    }
  }
  return removed;
}

uint64_t Store::sweep() {
  if (folder_.empty()) return 0;
  const std::string root = fmt::format("{}/{}", folder_, kSchemaFolder);
  const std::optional<int64_t> now_seconds = clock_seconds_of(root);
  if (!now_seconds) return 0;
  uint64_t removed = 0;
  for (const std::string& path : list_files(root)) {
    if (!is_temporary(path)) continue;
    const std::optional<int64_t> born_seconds = modified_seconds(path);
    if (born_seconds && *born_seconds < *now_seconds - kDeadWriterSeconds && remove_file(path)) {
      ++removed;
    }
  }
  return removed;
}

}  // namespace liger
