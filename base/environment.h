// Every environment variable the library reads, in one table. Read once, at the first use.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace liger {

struct EnvironmentVariable {
  const char* name;
  const char* default_text;  // as shown to people
  const char* meaning;       // one sentence
};

// The table itself, for `liger-jit env` and for docs.
const std::vector<EnvironmentVariable>& environment_table();

enum class AutotuneMode { off, first_run, full };

struct Environment {
  std::string cache_folder;                        // absolute, `~` expanded; empty: memory only
  std::vector<std::string> readonly_cache_layers;  // folders and bundles, searched after it
  uint64_t cache_size_bytes = uint64_t{1} << 30;   // more than this is pruned; 0: never
  AutotuneMode autotune = AutotuneMode::first_run;
  bool log = false;           // one line for each event on stderr
  std::string host_compiler;  // empty: search PATH for c++, g++, clang++
  std::string nvrtc_library;  // empty: the usual places
  std::string hip_library;    // empty: the usual places
  int compile_threads = 0;    // 0: min(8, cores)
};

// Parsed on first use; a value outside the allowed ones raises Error(invalid_argument) naming it.
const Environment& environment();

// The same for any source of values; `lookup` answers null for what is not set. Looks at the file
// system only to pick the default cache folder, and makes nothing there.
Environment parse_environment(const std::function<const char*(const char*)>& lookup);

// `500M`, `1.5G`, `64K` or plain bytes; powers of 1024. Nothing for any other text.
std::optional<uint64_t> parse_size_bytes(std::string_view text);

}  // namespace liger
