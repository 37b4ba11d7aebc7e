#include "engine/report/describe_cache.h"

#include <sys/stat.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "base/environment.h"
#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "cache/bundle.h"
#include "cache/entry_format.h"
#include "cache/store.h"
#include "engine/report/json_text.h"

namespace liger {

using nlohmann::json;

namespace {

// `name=value` lines.
json meta_of(const std::string& text) {
  json object = json::object();
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    if (const size_t equals = line.find('='); equals != std::string::npos) {
      object[line.substr(0, equals)] = line.substr(equals + 1);
    }
    at = end + 1;
  }
  return object;
}

json file_json(const StoredFile& file) {
  json row = {{"path", file.path},
              {"layer", file.layer},
              {"name", file.name},
              {"kind", file.kind == EntryKind::artifact ? "artifact" : "tune"},
              {"size_bytes", file.size_bytes},
              {"modified_seconds", file.modified_seconds},
              {"ok", file.entry.has_value()}};
  if (!file.entry) return row;
  json fields = json::object();
  for (const auto& [name, value] : Key::fields_of(file.entry->key_bytes)) {
    fields[name] = value;
  }
  row["meta"] = meta_of(file.entry->meta);
  row["kernel"] = row["meta"].value("kernel", "");
  row["payload_bytes"] = file.entry->payload.size();
  row["arch"] = fields.value("arch", "");
  row["backend"] = fields.value("backend", "");
  row["fields"] = std::move(fields);
  return row;
}

[[noreturn]] void refuse(std::string message) {
  throw Error(ErrorKind::invalid_argument, std::move(message));
}

struct EntryName {
  EntryKind kind;
  Hash128 hash;
};

EntryName parse_name(const std::string& name) {
  const bool artifact = name.starts_with("a/");
  EntryName parsed{artifact ? EntryKind::artifact : EntryKind::tune, {}};
  const auto half = [&](size_t at, uint64_t& into) {
    const char* const from = name.data() + at;
    const auto [end, trouble] = std::from_chars(from, from + 16, into, 16);
    return trouble == std::errc() && end == from + 16;
  };
  const bool kind_known = artifact || name.starts_with("t/");
  if (!kind_known || name.size() != 34 || !half(2, parsed.hash.high) || !half(18, parsed.hash.low))
    refuse(fmt::format("'{}' is no entry's name; those look like a/ or t/ and 32 digits", name));
  return parsed;
}

// Two machines that compile the same take different times over it; their bundles shall be the same.
std::string without_compile_time(const std::string& meta) {
  std::string kept;
  for (size_t at = 0; at < meta.size();) {
    const size_t end = std::min(meta.find('\n', at), meta.size() - 1) + 1;
    const std::string line = meta.substr(at, end - at);
    if (!line.starts_with("compile_ms=")) kept += line;
    at = end;
  }
  return kept;
}

void add_line(std::set<std::string>& lines, const std::string& name, const std::string& value) {
  if (!value.empty()) lines.insert(fmt::format("{}={}\n", name, value));
}

void require_writing() {
  if (environment().cache_mode == CacheMode::readonly)
    refuse("LIGER_JIT_CACHE_MODE=readonly forbids to change the cache; unset it");
}

}  // namespace

std::string describe_cache(const std::string& action) {
  Store& store = Store::user();
  if (action != "ls") require_writing();
  if (action == "clear") return text_of(json{{"removed", store.clear()}});
  if (action == "sweep") return text_of(json{{"removed", store.sweep()}});
  if (action == "repair") return text_of(json{{"moved", store.repair()}});
  if (action != "ls") {
    refuse(fmt::format("'{}' is nothing to do with a cache; allowed: ls, clear, sweep, repair",
                       action));
  }
  json files = json::array();
  for (const StoredFile& file : store.list()) files.push_back(file_json(file));
  return text_of(json{{"folder", store.folder()}, {"files", files}});
}

std::string describe_entries(const std::string& name) {
  json entries = json::array();
  for (const StoredFile& file : Store::user().list()) {
    if (!file.name.starts_with(name) && !file.name.substr(2).starts_with(name)) continue;
    json row = file_json(file);
    if (file.entry && file.kind == EntryKind::tune) row["times"] = file.entry->payload;
    entries.push_back(std::move(row));
  }
  return text_of(json{{"entries", entries}});
}

std::string prune_cache(const std::string& most_size) {
  uint64_t most_bytes = environment().cache_size_bytes;
  if (most_size.empty()) {
    if (most_bytes == 0) refuse("LIGER_JIT_CACHE_SIZE is off, so say to which size");
  } else if (const auto parsed = parse_size_bytes(most_size)) {
    most_bytes = *parsed;
  } else {
    refuse(fmt::format("'{}' is no size; allowed: 500M, 2G, or bytes", most_size));
  }
  require_writing();
  Store& store = Store::user();
  const Pruned pruned = store.prune(most_bytes);
  return text_of(json{{"folder", store.folder()},
                      {"most_bytes", most_bytes},
                      {"elected", pruned.elected},
                      {"problem", pruned.problem},
                      {"removed", pruned.removed_files},
                      {"removed_bytes", pruned.removed_bytes},
                      {"kept_bytes", pruned.kept_bytes}});
}

std::string export_bundle(const std::string& path, const std::vector<std::string>& names,
                          const std::string& provenance) {
  std::vector<BundledEntry> entries;
  std::set<std::string> lines;  // sorted
  const json given = meta_of(provenance);
  for (const auto& [name, value] : given.items()) add_line(lines, name, value);
  std::set<std::string> once(names.begin(), names.end());
  for (const std::string& name : once) {
    const EntryName parsed = parse_name(name);
    std::optional<Entry> entry = Store::user().find(parsed.kind, parsed.hash);
    if (!entry) refuse(fmt::format("{} is in no layer of the cache, or damaged there", name));
    for (const auto& [field, value] : Key::fields_of(entry->key_bytes)) {
      if (field == "compiler") add_line(lines, "compiler", value);
      if (field == "arch") add_line(lines, "target", value);
    }
    if (parsed.kind == EntryKind::artifact) entry->meta = without_compile_time(entry->meta);
    entries.push_back({parsed.kind, std::move(*entry)});
  }
  std::string told;
  for (const std::string& line : lines) told += line;
  const std::string bytes = encode_bundle(entries, told);
  const PublishResult written = replace_file(path, bytes);
  if (written.outcome == Publish::failed) {
    refuse(fmt::format("the bundle cannot be written: {}", written.error));
  }
  ::chmod(path.c_str(), 0644);  // it is there to be passed on
  const BundleIndex index = parse_bundle(bytes);
  uint64_t unpacked_bytes = 0;
  for (const BundleRecord& record : index.records) unpacked_bytes += record.entry_bytes;
  return text_of(json{{"file", path},
                      {"bytes", bytes.size()},
                      {"entries", entries.size()},
                      {"entries_bytes", unpacked_bytes},
                      {"sha256", index.manifest},
                      {"provenance", told}});
}

std::string import_bundle(const std::string& path) {
  Store& store = Store::user();
  const Imported imported = store.import_bundle(path);
  return text_of(json{{"file", path},
                      {"folder", store.folder()},
                      {"problem", imported.problem},
                      {"entries", imported.index.records.size()},
                      {"written", imported.written},
                      {"existed", imported.existed},
                      {"failed", imported.failed},
                      {"sha256", imported.index.manifest},
                      {"provenance", imported.index.provenance}});
}

}  // namespace liger
