// The functions of NVRTC that are used, found at run time. The types are ours: no toolkit header is
// needed to build.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "base/shared_library.h"

namespace liger {

using NvrtcProgram = void*;  // nvrtcProgram
constexpr int nvrtc_success = 0;

// The architecture of the intermediate code (PTX) that serves a GPU which is not among `known`: the
// first of the newest generation up to its own, because later ones may be cut down and not be
// followed by others. Nothing where all that are known are newer.
std::optional<int> stand_in_for(int wanted, const std::vector<int>& known);

// Only read once it is made, so thread safe as NVRTC is. Owned by the compiler of the process,
// never closed.
struct NvrtcLibrary {
  // The first of these that loads. Raises Error(compile) that lists where it was looked for and
  // what to install.
  explicit NvrtcLibrary(const std::vector<std::string>& candidates);

  std::string version_text() const;  // 13.0
  std::string build() const;         // ids of the library and of the builtins that it loads
  bool at_least(int wanted_major, int wanted_minor) const;
  std::vector<int> architectures() const;  // 80, 90, 100, …

  SharedLibrary library;
  int major = 0;
  int minor = 0;

  int (*create)(NvrtcProgram*, const char* source, const char* name, int header_count,
                const char* const* headers, const char* const* header_names);
  int (*destroy)(NvrtcProgram*);
  int (*compile)(NvrtcProgram, int option_count, const char* const* options);
  int (*log_size)(NvrtcProgram, size_t*);
  int (*log)(NvrtcProgram, char*);
  int (*cubin_size)(NvrtcProgram, size_t*);
  int (*cubin)(NvrtcProgram, char*);
  int (*ptx_size)(NvrtcProgram, size_t*);
  int (*ptx)(NvrtcProgram, char*);
  const char* (*error_text)(int);
  int (*version)(int* major, int* minor);
  int (*architecture_count)(int*);
  int (*architecture_list)(int*);
};

}  // namespace liger
