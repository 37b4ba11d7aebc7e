// Text to machine code. One interface, three compilers: NVRTC, hipRTC in a helper process, and the
// system's C++ compiler. All are found at run time.
#pragma once

#include <string>

#include "runtime/compile/target.h"
#include "runtime/compile/unit.h"

namespace liger {

struct Resources {  // -1: the backend does not say
  int registers = -1;
  int spill_bytes = -1;
  int stack_bytes = -1;
  int shared_bytes = -1;
};

struct Binary {
  std::string bytes;
  Resources resources;
  double compile_ms = 0;
};

struct CompilerState {  // for `liger-jit env`
  bool found = false;
  std::string path;
  std::string version;
  std::string problem;  // where it was looked for and what to install, when not found
};

// Thread safe. One for each backend and process, never destroyed. A search that found no compiler
// is made anew by the next call; one that did stands.
class Compiler {
 public:
  virtual ~Compiler() = default;

  // Never raises.
  virtual CompilerState state() = 0;

  // Version and build of all that can change the code; part of the artifact key, so no path in it.
  // Raises Error(compile) when the compiler is missing: where it looked and what to install.
  virtual std::string identity() = 0;

  // Canonical options; part of the key as well.
  virtual std::string options(const Target& target) = 0;

  // For a GPU newer than the compiler: the architecture of the code that is made for it instead,
  // compute_90, and that its driver turns into machine code as it loads it. Empty where this makes
  // machine code itself, or nothing at all. Raises as identity() does.
  virtual std::string intermediate(const Target&) { return {}; }

  // Raises Error(compile) with the compiler's own words and the unit's text, or
  // Error(unsupported) for an architecture that this compiler does not know.
  virtual Binary compile(const Unit& unit, const Target& target) = 0;
};

// One for each process; never destroyed.
Compiler& compiler_for(Backend backend);

}  // namespace liger
