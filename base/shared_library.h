// A library opened at run time, because the machine that builds has no CUDA and no ROCm.
#pragma once

#include <string>
#include <vector>

namespace liger {

class SharedLibrary {
 public:
  // Opens the first candidate that loads. `found()` is false when none did; `trace()` lists each
  // candidate with the loader's answer, for the error that the caller raises.
  explicit SharedLibrary(const std::vector<std::string>& candidates);
  SharedLibrary(const SharedLibrary&) = delete;

  bool found() const { return handle_ != nullptr; }
  const std::string& path() const { return path_; }    // of the file that was loaded
  const std::string& trace() const { return trace_; }  // one line for each candidate

  // Null when absent.
  void* symbol(const char* name) const;
  template <typename Function>
  Function* function(const char* name) const {
    return reinterpret_cast<Function*>(symbol(name));
  }

 private:
  void* handle_ = nullptr;  // never closed: vendor libraries do not survive it
  std::string path_;
  std::string trace_;
};

// The file of the library that holds `code`; "" if it is gone.
std::string library_of(const void* code);

// The file that holds this code, liger_jit's core, and its folder.
std::string own_library();
std::string own_folder();

// `build-id:<hex>`, the GNU build id of the library's file, else `bytes:<size>:<XXH3-128>`; cached
// by path, time and size. A name without a slash stands for the library loaded under it. Raises
// Error(compile) if the file cannot be read: a key must not be made without it.
std::string build_identity(const std::string& library_path);

}  // namespace liger
