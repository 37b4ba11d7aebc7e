#include "runtime/compile/compiler.h"

#include "base/text.h"
#include "runtime/backends.h"

namespace liger {

Error compile_error(const Unit& unit, const Target& target, std::string_view words) {
  return Error(ErrorKind::compile,
               fmt::format("{} does not compile for {} {}:\n{}\nThe unit was:\n{}", unit.kernel,
                           name_of(target.backend), target.arch, words, unit.text));
}

Compiler& compiler_for(Backend backend) {
  // Released on purpose: a prefetching thread may still compile while the process exits.
  switch (backend) {
    case Backend::cuda: {
      static Compiler* const nvrtc = make_nvrtc_compiler().release();
      return *nvrtc;
    }
    case Backend::hip: {
      static Compiler* const hiprtc = make_hiprtc_compiler().release();
      return *hiprtc;
    }
    case Backend::cpu:
      break;
  }
  static Compiler* const host = make_host_compiler().release();
  return *host;
}

}  // namespace liger
