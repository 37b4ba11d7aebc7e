#include "runtime/compile/nvrtc_program.h"

#include "base/error.h"
#include "base/text.h"

namespace liger {
namespace {

class Program {
 public:
  Program(const NvrtcLibrary& nvrtc, const std::string& source) : nvrtc_(nvrtc) {
    const int result = nvrtc.create(&handle_, source.c_str(), "unit", 0, nullptr, nullptr);
    if (result != nvrtc_success)
      throw Error(ErrorKind::compile,
                  fmt::format("NVRTC cannot begin a program: {}", nvrtc.error_text(result)));
  }
  ~Program() { nvrtc_.destroy(&handle_); }
  Program(const Program&) = delete;

  int compile(const std::vector<std::string>& options) {
    std::vector<const char*> pointers;
    for (const std::string& option : options) pointers.push_back(option.c_str());
    return nvrtc_.compile(handle_, static_cast<int>(pointers.size()), pointers.data());
  }
  std::string log() const { return text(nvrtc_.log_size, nvrtc_.log); }
  std::string ptx() const { return text(nvrtc_.ptx_size, nvrtc_.ptx); }
  std::string cubin() const { return sized(nvrtc_.cubin_size, nvrtc_.cubin); }

 private:
  // NVRTC counts the zero at its end.
  std::string text(int (*size_of)(NvrtcProgram, size_t*), int (*get)(NvrtcProgram, char*)) const {
    std::string read = sized(size_of, get);
    while (read.ends_with('\0')) read.pop_back();
    return read;
  }
  std::string sized(int (*size_of)(NvrtcProgram, size_t*), int (*get)(NvrtcProgram, char*)) const {
    size_t size_bytes = 0;
    if (size_of(handle_, &size_bytes) != nvrtc_success) return {};
    std::string bytes(size_bytes, '\0');
    if (get(handle_, bytes.data()) != nvrtc_success) return {};
    return bytes;
  }

  const NvrtcLibrary& nvrtc_;
  NvrtcProgram handle_ = nullptr;
};

}  // namespace

NvrtcResult compile_by(const NvrtcLibrary& nvrtc, const NvrtcRequest& request) {
  Program program(nvrtc, request.source);
  const int result = program.compile(request.options);
  if (result != nvrtc_success) return {nvrtc.error_text(result), program.log(), {}};
  return {{}, program.log(), request.to_intermediate ? program.ptx() : program.cubin()};
}

}  // namespace liger
