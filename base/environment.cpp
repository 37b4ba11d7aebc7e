#include "base/environment.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"

namespace liger {
namespace {

using Lookup = std::function<const char*(const char*)>;

constexpr const char* remote_variable = "LIGER_JIT_REMOTE";
constexpr int most_threads = 256;

std::atomic<bool> was_read{false};

// Set by torchrun, DeepSpeed's launcher, Open MPI and Slurm.
constexpr const char* rank_variables[] = {"LOCAL_WORLD_SIZE", "LOCAL_SIZE",
                                          "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"};

std::string value_of(const Lookup& lookup, const char* name) {
  const char* value = lookup(name);
  return value == nullptr ? "" : value;
}

[[noreturn]] void refuse(const char* name, std::string_view value, std::string_view allowed) {
  throw Error(ErrorKind::invalid_argument,
              fmt::format("{}=\"{}\" is not understood; allowed: {}", name, value, allowed));
}

std::string absolute(const std::string& path) {
  std::error_code trouble;
  const std::filesystem::path result = std::filesystem::absolute(path, trouble);
  return trouble ? path : result.string();
}

// HOME, if it names a folder that exists: images set it to places such as /nonexistent.
std::string home_folder(const Lookup& lookup) {
  const std::string home = value_of(lookup, "HOME");
  std::error_code trouble;
  return home.starts_with('/') && std::filesystem::is_directory(home, trouble) ? home : "";
}

// Absolute, with a leading `~` expanded; empty if there is no home to expand it to.
std::string expand(const char* name, const std::string& path, const Lookup& lookup) {
  if (!path.starts_with('~')) return absolute(path);
  if (path.size() > 1 && path[1] != '/') refuse(name, path, "~/folder or a path, not ~user");
  const std::string home = home_folder(lookup);
  return home.empty() ? "" : absolute(home + path.substr(1));
}

std::string temporary_cache_folder(const Lookup& lookup) {
  std::string parent = value_of(lookup, "TMPDIR");
  if (!parent.starts_with('/')) parent = "/tmp";
  const std::string folder = fmt::format("{}/liger-{}", absolute(parent), geteuid());
  // Its name can be guessed, so another user may have made it first.
  return may_write_folder(folder) && distrust_reason(folder).empty() ? folder : "";
}

std::string default_cache_folder(const Lookup& lookup) {
  // The XDG rules say that a relative value is to be ignored.
  const std::string xdg = value_of(lookup, "XDG_CACHE_HOME");
  if (xdg.starts_with('/') && may_write_folder(xdg)) return absolute(xdg + "/liger");
  const std::string home = home_folder(lookup);
  if (!home.empty() && may_write_folder(home + "/.cache")) return absolute(home + "/.cache/liger");
  const std::string folder = temporary_cache_folder(lookup);
  if (folder.empty()) {
    warn_once("cache folder",
              "no folder for the cache: neither HOME nor the folder for temporary files can be "
              "used, so kernels are compiled anew in each process; set LIGER_JIT_CACHE");
  }
  return folder;
}

std::string parse_cache_folder(const Lookup& lookup) {
  const char* asked = lookup("LIGER_JIT_CACHE");
  if (asked == nullptr) return default_cache_folder(lookup);
  const std::string folder = asked;
  if (folder.empty() || folder == "off") return "";
  const std::string expanded = expand("LIGER_JIT_CACHE", folder, lookup);
  return expanded.empty() ? default_cache_folder(lookup) : expanded;
}

std::vector<std::string> parse_readonly_layers(const Lookup& lookup) {
  constexpr const char* variable = "LIGER_JIT_CACHE_READONLY";
  std::vector<std::string> layers;
  std::string rest = value_of(lookup, variable);
  while (!rest.empty()) {
    const size_t colon = std::min(rest.find(':'), rest.size());
    const std::string part = rest.substr(0, colon);
    rest.erase(0, colon + 1);
    const std::string layer = part.empty() ? "" : expand(variable, part, lookup);
    if (!layer.empty()) layers.push_back(layer);
  }
  return layers;
}

uint64_t parse_cache_size(const std::string& value) {
  if (value.empty()) return Environment().cache_size_bytes;
  if (value == "off") return 0;
  const std::optional<uint64_t> size_bytes = parse_size_bytes(value);
  if (size_bytes && *size_bytes > 0) return *size_bytes;
  refuse("LIGER_JIT_CACHE_SIZE", value, "a size such as 500M or 2G, or off");
}

AutotuneMode parse_autotune(const std::string& value) {
  if (value.empty() || value == "first-run") return AutotuneMode::first_run;
  if (value == "off") return AutotuneMode::off;
  if (value == "full") return AutotuneMode::full;
  refuse("LIGER_JIT_AUTOTUNE", value, "first-run, off, full");
}

constexpr std::pair<std::string_view, CacheMode> cache_modes[] = {
    {"readwrite", CacheMode::readwrite},
    {"readonly", CacheMode::readonly},
    {"offline", CacheMode::offline},
    {"refresh", CacheMode::refresh},
    {"off", CacheMode::off},
};

CacheMode parse_cache_mode(const std::string& value) {
  if (value.empty()) return CacheMode::readwrite;
  std::string allowed;
  for (const auto& [name, mode] : cache_modes) {
    if (value == name) return mode;
    allowed += fmt::format("{}{}", allowed.empty() ? "" : ", ", name);
  }
  refuse("LIGER_JIT_CACHE_MODE", value, allowed);
}

std::optional<RemoteAddress> parse_remote(const std::string& value) {
  if (value.empty()) return std::nullopt;
  return parse_remote_address(value);
}

// A word says what is printed on stderr; with a slash it is a file.
void parse_log(Environment& result, const Lookup& lookup) {
  constexpr const char* variable = "LIGER_JIT_LOG";
  const std::string value = value_of(lookup, variable);
  if (value.empty() || value == "0") return;
  result.log = value == "1" ? LogFormat::text : LogFormat::json;
  if (value == "1" || value == "json") return;
  if (value.find('/') == std::string::npos)
    refuse(variable, value, "0, 1, json, a path with a slash");
  result.log_file = expand(variable, value, lookup);
}

int parse_threads(const std::string& value) {
  if (value.empty()) return 0;
  int threads = -1;
  const auto [end, trouble] = std::from_chars(value.data(), value.data() + value.size(), threads);
  const bool whole = trouble == std::errc() && end == value.data() + value.size();
  if (!whole || threads < 0 || threads > most_threads) {
    refuse("LIGER_JIT_THREADS", value, fmt::format("a number from 0 to {}", most_threads));
  }
  return threads;
}

// These variables are not ours, so a value that is no number says nothing.
int parse_ranks_on_node(const Lookup& lookup) {
  for (const char* name : rank_variables) {
    const std::string value = value_of(lookup, name);
    int ranks = 0;
    std::from_chars(value.data(), value.data() + value.size(), ranks);
    if (ranks > 0) return ranks;
  }
  return 0;
}

}  // namespace

std::string_view name_of(CacheMode mode) {
  for (const auto& [name, one] : cache_modes)
    if (one == mode) return name;
  return "";
}

const std::vector<EnvironmentVariable>& environment_table() {
  static const std::vector<EnvironmentVariable> table = {
      {"LIGER_JIT_CACHE", "$XDG_CACHE_HOME/liger, else ~/.cache/liger",
       "Folder that keeps compiled kernels and measured times; `off` or empty keeps them in memory "
       "only."},
      {"LIGER_JIT_CACHE_READONLY", "(none)",
       "Folders of the same layout and bundles that are searched after it and never written, "
       "separated by colons."},
      {"LIGER_JIT_CACHE_MODE", "readwrite",
       "`readonly` writes nothing, `offline` compiles nothing (what the cache lacks is an error), "
       "`refresh` makes everything anew, `off` keeps all in memory."},
      {remote_variable, "(none)",
       "Redis server that shares the cache: `redis://[:password@]host:port/prefix` or "
       "`unix://[:password@]/socket?prefix=name`."},
      {"LIGER_JIT_CACHE_SIZE", "1G",
       "Size that the folder is pruned to once a day, the longest unused first; `off` never "
       "prunes."},
      {"LIGER_JIT_AUTOTUNE", "first-run",
       "`first-run` measures a new shape once, `off` takes the heuristic pick, `full` measures "
       "every candidate."},
      {"LIGER_JIT_LOG", "0",
       "`1` prints a line on stderr for each compile, cache hit, load and tuning; `json` prints "
       "JSON, "
       "and a path with a slash is the file that gets it."},
      {"LIGER_JIT_CXX", "the first of c++, g++, clang++ on PATH",
       "C++ compiler for kernels that run on the CPU."},
      {"LIGER_JIT_NVRTC", "the usual places", "File of NVIDIA's NVRTC library."},
      {"LIGER_JIT_HIP", "the usual places", "File of AMD's HIP library."},
      {"LIGER_JIT_THREADS", "min(8, cores / ranks on this node)",
       "Number of threads that compile; 0 stands for the default."},
  };
  return table;
}

Environment parse_environment(const Lookup& lookup) {
  Environment result;
  result.cache_folder = parse_cache_folder(lookup);
  result.readonly_cache_layers = parse_readonly_layers(lookup);
  result.cache_size_bytes = parse_cache_size(value_of(lookup, "LIGER_JIT_CACHE_SIZE"));
  result.remote = parse_remote(value_of(lookup, remote_variable));
  result.cache_mode = parse_cache_mode(value_of(lookup, "LIGER_JIT_CACHE_MODE"));
  if (result.cache_mode == CacheMode::off) {
    result.cache_folder.clear();
    result.readonly_cache_layers.clear();
    result.remote.reset();
  }
  result.autotune = parse_autotune(value_of(lookup, "LIGER_JIT_AUTOTUNE"));
  parse_log(result, lookup);
  result.host_compiler = value_of(lookup, "LIGER_JIT_CXX");
  result.nvrtc_library = value_of(lookup, "LIGER_JIT_NVRTC");
  result.hip_library = value_of(lookup, "LIGER_JIT_HIP");
  result.compile_threads = parse_threads(value_of(lookup, "LIGER_JIT_THREADS"));
  result.ranks_on_node = parse_ranks_on_node(lookup);
  return result;
}

std::optional<uint64_t> parse_size_bytes(std::string_view text) {
  double number = 0;
  const char* const last = text.data() + text.size();
  const auto [end, trouble] = std::from_chars(text.data(), last, number, std::chars_format::fixed);
  if (trouble != std::errc() || !(number >= 0)) return std::nullopt;
  const std::string_view unit(end, static_cast<size_t>(last - end));
  double scale = 0;
  if (unit.empty()) scale = 1;
  if (unit == "K" || unit == "k") scale = 0x1p10;
  if (unit == "M" || unit == "m") scale = 0x1p20;
  if (unit == "G" || unit == "g") scale = 0x1p30;
  if (unit == "T" || unit == "t") scale = 0x1p40;
  if (scale == 0 || number * scale > 0x1p60) return std::nullopt;
  return static_cast<uint64_t>(number * scale);
}

const Environment& environment() {
  static const Environment& the_environment =
      *new Environment(parse_environment([](const char* name) { return std::getenv(name); }));
  was_read.store(true, std::memory_order_release);
  return the_environment;
}

bool environment_is_read() { return was_read.load(std::memory_order_acquire); }

std::string shown_value(const EnvironmentVariable& variable) {
  const char* value = std::getenv(variable.name);
  if (value == nullptr) return "";
  return std::string_view(variable.name) == remote_variable ? without_password(value) : value;
}

}  // namespace liger
