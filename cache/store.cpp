#include "cache/store.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <system_error>
#include <thread>

#include "base/counters.h"
#include "base/environment.h"
#include "base/files.h"
#include "base/log.h"
#include "base/process_state.h"
#include "base/shared_library.h"
#include "base/text.h"
#include "cache/bundle_format.h"
#include "cache/entry_format.h"

namespace liger {
namespace {

constexpr int background_nice = 19;

std::string folder_of(const std::string& root, std::string_view part) {
  return fmt::format("{}/{}/{}", root, schema_folder, part);
}

std::string_view suffix_of(EntryKind kind) {
  return kind == EntryKind::artifact ? artifact_suffix : tune_suffix;
}

std::string path_of(const std::string& root, EntryKind kind, const Hash128& hash) {
  const std::string hex = hash.hex();
  return fmt::format("{}/{}/{}{}", folder_of(root, folder_of(kind)),
                     std::string_view(hex).substr(0, 2), hex, suffix_of(kind));
}

std::string name_of(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

std::string quarantine_path(const std::string& root, const std::string& path) {
  return fmt::format("{}/{}", folder_of(root, quarantine_folder), name_of(path));
}

// Nothing unless it verifies and its key is that of its name.
std::optional<Entry> entry_called(const std::string& hex, std::string_view bytes) {
  std::optional<Entry> entry = decode_entry(bytes);
  if (entry && hash128(entry->key_bytes).hex() != hex) entry.reset();
  return entry;
}

void add_files(std::vector<StoredFile>& files, const std::string& layer, EntryKind kind) {
  const std::string_view suffix = suffix_of(kind);
  for (const std::string& path : list_files(folder_of(layer, folder_of(kind)))) {
    if (!path.ends_with(suffix) || is_temporary(path)) continue;
    const std::optional<StampedFile> file = read_stamped_file(path);
    if (!file) continue;
    const std::string file_name = name_of(path);
    const std::string hex = file_name.substr(0, file_name.size() - suffix.size());
    std::optional<Entry> entry = entry_called(hex, file->bytes);
    files.push_back({path, layer, fmt::format("{}/{}", folder_of(kind), hex), kind,
                     file->stamp.size_bytes, file->stamp.modified_ns / 1'000'000'000,
                     std::move(entry)});
  }
}

void add_bundle(std::vector<StoredFile>& files, const BundleFile& bundle) {
  const int64_t modified = modified_seconds(bundle.path()).value_or(0);
  for (const BundleRecord& record : bundle.index().records) {
    files.push_back({bundle.path(), bundle.path(), entry_name(record.kind, record.key_hash),
                     record.kind, record.frame_bytes, modified, bundle.read_deep(record)});
  }
}

std::optional<Entry> entry_in(const std::string& folder, EntryKind kind, const Hash128& key_hash) {
  const std::optional<StampedFile> file = read_stamped_file(path_of(folder, kind, key_hash));
  std::optional<Entry> entry = file ? decode_entry(file->bytes) : std::nullopt;
  return entry && hash128(entry->key_bytes) == key_hash ? entry : std::nullopt;
}

bool is_bundle(const std::string& path) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) == 0) return S_ISREG(status.st_mode);
  return path.ends_with(bundle_suffix);
}

}  // namespace

Store::Store(std::string folder, const std::vector<std::string>& readonly_layers, Options options)
    : folder_(std::move(folder)), options_(std::move(options)) {
  for (const std::string& layer : readonly_layers) add_layer(layer, BundleFile::Origin::anywhere);
  const std::string& seed = options_.seed;
  if (!seed.empty() && stamp_of(seed)) add_layer(seed, BundleFile::Origin::ours);
  if (folder_.empty()) {
    why_memory_only_ = "no folder was given";
    return;
  }
  std::string reason = distrust_reason(root());
  if (reason.empty() && !options_.readonly && !make_folders(root()))
    reason = root() + " cannot be made";
  // Again, because in a place such as /tmp anybody may have made it just before us.
  if (reason.empty()) reason = distrust_reason(root());
  if (!reason.empty()) go_memory_only(std::move(reason));
}

std::string Store::root() const { return fmt::format("{}/{}", folder_, schema_folder); }

void Store::add_layer(std::string path, BundleFile::Origin origin) {
  ReadonlyLayer layer;
  layer.is_bundle = is_bundle(path);
  layer.path = std::move(path);
  if (layer.is_bundle) {
    layer.bundle = BundleFile::open(layer.path, origin, layer.problem);
  } else {
    layer.problem = distrust_reason(folder_of(layer.path, artifact_folder));
  }
  if (!layer.problem.empty()) {
    warn_once("cache layer " + layer.path,
              fmt::format("the read-only cache {} is not used: {}", layer.path, layer.problem));
  }
  readonly_layers_.push_back(std::move(layer));
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
  struct OfProcess {
    std::once_flag once;
    std::unique_ptr<Store> store;
  };
  OfProcess& own = ProcessState<OfProcess>::get();
  std::call_once(own.once, [&] {
    const Environment& now = environment();
    own.store = std::make_unique<Store>(
        now.cache_folder, now.readonly_cache_layers,
        Options{.readonly = now.cache_mode == CacheMode::readonly,
                .prune_to_bytes = now.cache_size_bytes,
                .seed = now.cache_mode == CacheMode::off ? "" : own_folder() + "/seed.ljb"});
  });
  return *own.store;
}

std::optional<Entry> Store::read(EntryKind kind, const Key& key) {
  const Hash128 hash = key.hash();
  if (!folder_.empty()) {
    if (auto entry = read_layer(path_of(folder_, kind, hash), key, !options_.readonly)) {
      ++counters().hit_disk;
      return entry;
    }
  }
  for (const ReadonlyLayer& layer : readonly_layers_) {
    if (!layer.problem.empty()) continue;
    if (auto entry = layer.bundle ? read_bundle(*layer.bundle, kind, key)
                                  : read_layer(path_of(layer.path, kind, hash), key, false)) {
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
    const bool is_own = may_move_aside;
    if (is_own && std::time(nullptr) - file->stamp.modified_ns / 1'000'000'000 > day_seconds) {
      touch_file(path);  // in use: eviction takes it last
    }
    return entry;
  }

  ++counters().corrupt;
  std::string what = file->problem;
  if (what.empty()) what = entry ? "holds another key" : "is damaged";
  bool moved = false;
  if (may_move_aside) {
    make_folders(folder_of(folder_, quarantine_folder));
    moved = move_if_unchanged(path, file->stamp, quarantine_path(folder_, path));
  }
  log_event(Event::corrupt, {{"file", path}, {"moved", moved ? 1.0 : 0.0}});
  warn_once("cache corrupt " + folder_,
            fmt::format("the cache entry {} {} and is compiled anew; if this comes again, look at "
                        "the disk",
                        path, what));
  return std::nullopt;
}

std::optional<Entry> Store::read_bundle(const BundleFile& bundle, EntryKind kind, const Key& key) {
  std::optional<Entry> entry;
  const BundleFile::Answer answer = bundle.read(kind, key.hash(), entry);
  if (answer == BundleFile::Answer::absent) return std::nullopt;
  if (answer == BundleFile::Answer::hit && entry->key_bytes == key.bytes()) {
    if (log_enabled()) log_event(Event::hit, {{"file", bundle.path()}, {"key", key.hash().hex()}});
    return entry;
  }
  ++counters().corrupt;
  log_event(Event::corrupt, {{"file", bundle.path()}, {"key", key.hash().hex()}});
  warn_once(
      "cache corrupt " + bundle.path(),
      fmt::format("the bundle {} is damaged, so what it cannot give is compiled anew; copy it "
                  "again, or make it again with `liger-jit cache export`",
                  bundle.path()));
  return std::nullopt;
}

std::optional<Entry> Store::find(EntryKind kind, const Hash128& key_hash) const {
  if (!folder_.empty()) {
    if (auto entry = entry_in(folder_, kind, key_hash)) return entry;
  }
  for (const ReadonlyLayer& layer : readonly_layers_) {
    if (!layer.problem.empty()) continue;
    std::optional<Entry> entry;
    if (layer.bundle) {
      layer.bundle->read(kind, key_hash, entry);
    } else {
      entry = entry_in(layer.path, kind, key_hash);
    }
    if (entry) return entry;
  }
  return std::nullopt;
}

std::vector<std::string> Store::keys(EntryKind kind) const {
  std::vector<std::string> keys;
  const auto add = [&](std::optional<Entry> entry) {
    if (entry) keys.push_back(std::move(entry->key_bytes));
  };
  const auto add_folder = [&](const std::string& folder) {
    for (const std::string& path : list_files(folder_of(folder, folder_of(kind)))) {
      const std::optional<StampedFile> file = read_stamped_file(path);
      const std::string name = name_of(path);
      if (file) add(entry_called(name.substr(0, name.find('.')), file->bytes));
    }
  };
  if (!folder_.empty()) add_folder(folder_);
  for (const ReadonlyLayer& layer : readonly_layers_) {
    if (!layer.problem.empty()) continue;
    if (!layer.bundle) {
      add_folder(layer.path);
      continue;
    }
    for (const BundleRecord& record : layer.bundle->index().records) {
      std::optional<Entry> entry;
      if (record.kind == kind) layer.bundle->read(kind, record.key_hash, entry);
      add(std::move(entry));
    }
  }
  return keys;
}

void Store::publish(EntryKind kind, const Key& key, std::string_view meta, std::string_view payload,
                    bool replace) {
  if (!may_change()) return;
  if (!may_write_.load(std::memory_order_relaxed)) {
    ++counters().publish_failed;
    return;
  }
  const std::string path = path_of(folder_, kind, key.hash());
  const std::string bytes = encode_entry(key.bytes(), meta, payload);
  const PublishResult result = kind == EntryKind::artifact && !replace ? publish_file(path, bytes)
                                                                       : replace_file(path, bytes);
  switch (result.outcome) {
    case Publish::written:
      ++counters().published;
      if (log_enabled()) log_event(Event::publish, {{"file", path}});
      prune_in_background();
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
  std::vector<StoredFile> files;
  const auto add_folder = [&](const std::string& folder) {
    add_files(files, folder, EntryKind::artifact);
    add_files(files, folder, EntryKind::tune);
  };
  if (!folder_.empty()) add_folder(folder_);
  for (const ReadonlyLayer& layer : readonly_layers_) {
    if (!layer.problem.empty()) continue;
    if (layer.bundle) {
      add_bundle(files, *layer.bundle);
    } else {
      add_folder(layer.path);
    }
  }
  return files;
}

uint64_t Store::clear() {
  if (!may_change()) return 0;
  uint64_t removed = 0;
  for (const std::string_view part : {artifact_folder, tune_folder, quarantine_folder}) {
    for (const std::string& path : list_files(folder_of(folder_, part))) {
      // A temporary may belong to a writer at work; sweep() knows when it does not.
      if (!is_temporary(path) && remove_file(path)) ++removed;
    }
  }
  return removed;
}

uint64_t Store::sweep() { return may_change() ? sweep_temporaries(root()) : 0; }

Pruned Store::prune(uint64_t most_bytes) {
  return may_change() ? prune_folder(root(), most_bytes) : Pruned();
}

// After a publish, for only then has the folder grown. Not at exit: there a slow disk would be
// felt.
void Store::prune_in_background() {
  if (options_.prune_to_bytes == 0) return;
  std::call_once(prune_once_, [this] {
    try {
      std::thread([root = root(), most_bytes = options_.prune_to_bytes] {
        setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), background_nice);
        prune_if_due(root, most_bytes);
      }).detach();
    } catch (const std::system_error&) {
      // A limit on threads: another process will prune.
    }
  });
}

std::vector<std::string> Store::repair() {
  std::vector<std::string> moved;
  if (!may_change()) return moved;
  for (const StoredFile& file : list()) {
    if (file.entry || file.layer != folder_) continue;
    make_folders(folder_of(folder_, quarantine_folder));
    const std::optional<FileStamp> stamp = stamp_of(file.path);
    if (stamp && move_if_unchanged(file.path, *stamp, quarantine_path(folder_, file.path))) {
      moved.push_back(file.path);
    }
  }
  return moved;
}

Imported Store::import_bundle(const std::string& path) {
  Imported result;
  const std::optional<std::string> bytes = read_any_file(path, most_bundle_bytes, result.problem);
  if (bytes) {
    result.index = parse_bundle(*bytes);
    result.problem = result.index.problem;
  }
  if (result.problem.empty() && folder_.empty()) {
    result.problem = "there is no cache folder to write to: " + why_memory_only_;
  }
  if (result.problem.empty() && options_.readonly) {
    result.problem = "LIGER_JIT_CACHE_MODE=readonly forbids to write; unset it";
  }
  if (!result.problem.empty()) return result;

  for (const BundleRecord& record : result.index.records) {
    const std::string_view frame =
        std::string_view(*bytes).substr(record.frame_at, record.frame_bytes);
    const Entry entry = *unpack_entry(record, frame, false);
    if (entry_in(folder_, record.kind, record.key_hash)) {
      ++result.existed;
      continue;
    }
    // Here is nothing, or something damaged that replacing mends.
    const PublishResult published =
        replace_file(path_of(folder_, record.kind, record.key_hash),
                     encode_entry(entry.key_bytes, entry.meta, entry.payload));
    if (published.outcome == Publish::failed) {
      ++result.failed;
      warn_once("cache import " + folder_,
                fmt::format("some entries of {} were not written: {}", path, published.error));
    } else {
      ++result.written;
      ++counters().published;
      if (log_enabled())
        log_event(Event::publish, {{"file", path_of(folder_, record.kind, record.key_hash)}});
    }
  }
  if (result.written > 0) prune_in_background();
  return result;
}

}  // namespace liger
