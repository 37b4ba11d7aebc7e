// What a driver does with intermediate code (PTX), by NVIDIA's linker and so without a GPU.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/shared_library.h"

namespace liger {

class PtxLinker {
 public:
  // The library that TORTURE_NVJITLINK names; nothing where it names none or one that is not that.
  static std::optional<PtxLinker> named();

  // Machine code for `arch`. Raises Error(compile) with the linker's words.
  std::string finish(const std::string& ptx, const std::string& arch) const;

 private:
  explicit PtxLinker(const char* path)
      : library_(std::make_shared<SharedLibrary>(std::vector<std::string>{path})) {}
  template <class... Arguments>
  int call(const char* name, Arguments... arguments) const;

  std::shared_ptr<const SharedLibrary> library_;
};

}  // namespace liger
