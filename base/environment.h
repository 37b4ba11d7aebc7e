// Every environment variable the library reads, in one table. Read once, at the first use.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/remote_address.h"

namespace liger {

struct EnvironmentVariable {
  const char* name;
  const char* default_text;  // as shown to people
  const char* meaning;       // one sentence
};

// The table itself, for `liger-jit env` and for docs.
const std::vector<EnvironmentVariable>& environment_table();

// What a variable is set to, for people: without the password that it may hold.
std::string shown_value(const EnvironmentVariable& variable);

enum class AutotuneMode { off, first_run, full };

enum class CacheMode {
  readwrite,
  readonly,  // every layer is read, none is written
  offline,   // nothing is compiled and nothing is tuned: what no layer has is an error
  refresh,   // no layer is read: all is made anew and takes the place of what is there
  off,       // no folder and no server: memory only
};

std::string_view name_of(CacheMode mode);  // as LIGER_JIT_CACHE_MODE has it

enum class LogFormat { off, text, json };

struct Environment {
  std::string cache_folder;                        // absolute, `~` expanded; empty: memory only
  std::vector<std::string> readonly_cache_layers;  // folders and bundles, searched after it
  uint64_t cache_size_bytes = uint64_t{1} << 30;   // more than this is pruned; 0: never
  CacheMode cache_mode = CacheMode::readwrite;
  std::optional<RemoteAddress> remote;  // a server that shares entries; empty: none
  AutotuneMode autotune = AutotuneMode::first_run;
  LogFormat log = LogFormat::off;  // one line for each event
  std::string log_file;            // absolute; empty: stderr
  std::string host_compiler;       // empty: search PATH for c++, g++, clang++
  std::string nvrtc_library;       // empty: the usual places
  std::string hip_library;         // empty: the usual places
  int compile_threads = 0;         // 0: min(8, cores / ranks on this node)
  int ranks_on_node = 0;           // as the launcher says; 0: it does not
};

// Parsed on first use; a value outside the allowed ones raises Error(invalid_argument) naming it.
const Environment& environment();

// Whether that first use is over. Until then nothing that it calls may ask for it.
bool environment_is_read();

// The same for any source of values; `lookup` answers null for what is not set. Looks at the file
// system only to pick the default cache folder, and makes nothing there.
Environment parse_environment(const std::function<const char*(const char*)>& lookup);

// `500M`, `1.5G`, `64K` or plain bytes; powers of 1024. Nothing for any other text.
std::optional<uint64_t> parse_size_bytes(std::string_view text);

}  // namespace liger
