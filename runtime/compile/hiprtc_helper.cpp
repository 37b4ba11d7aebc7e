// liger-hiprtc-helper: one hipRTC compile in a process of its own, because hipRTC ends its process
// when it does not know an architecture. A request comes on standard input, the reply goes to
// standard output.
#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <iostream>
#include <iterator>
#include <sstream>

#include "runtime/compile/hiprtc_message.h"

namespace liger {
namespace {

using Program = void*;  // hiprtcProgram

struct Hiprtc {
  explicit Hiprtc(const std::string& candidates) {
    std::istringstream lines(candidates);
    for (std::string path; !compile && std::getline(lines, path);) {
      void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!library) {
        trace += std::string(dlerror()) + "\n";
        continue;
      }
      bind(library, "hiprtcVersion", version);
      bind(library, "hiprtcCreateProgram", create);
      bind(library, "hiprtcGetProgramLogSize", log_size);
      bind(library, "hiprtcGetProgramLog", log);
      bind(library, "hiprtcGetCodeSize", code_size);
      bind(library, "hiprtcGetCode", code);
      bind(library, "hiprtcGetErrorString", error_text);
      bind(library, "hiprtcCompileProgram", compile);
      if (!compile) trace += path + ": has no hipRTC in it\n";
    }
  }

  template <typename Function>
  static void bind(void* library, const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
  }

  std::string trace;
  int (*version)(int*, int*) = nullptr;
  int (*create)(Program*, const char* source, const char* name, int header_count,
                const char** headers, const char** header_names) = nullptr;
  int (*log_size)(Program, size_t*) = nullptr;
  int (*log)(Program, char*) = nullptr;
  int (*code_size)(Program, size_t*) = nullptr;
  int (*code)(Program, char*) = nullptr;
  const char* (*error_text)(int) = nullptr;
  int (*compile)(Program, int option_count, const char** options) = nullptr;
};

int add_vendor_library(dl_phdr_info* library, size_t, void* lines) {
  const std::string_view path = library->dlpi_name ? library->dlpi_name : "";
  for (const char* part : {"/libamdhip64", "/libhiprtc", "/libamd_comgr", "/libLLVM"})
    if (path.find(part) != std::string_view::npos)
      *static_cast<std::string*>(lines) += std::string(path) + "\n";
  return 0;
}

std::string sized(Program program, int (*size_of)(Program, size_t*), int (*get)(Program, char*)) {
  size_t size_bytes = 0;
  if (size_of(program, &size_bytes) != 0) return {};
  std::string bytes(size_bytes, '\0');
  if (get(program, bytes.data()) != 0) return {};
  return bytes;
}

void compile(const Hiprtc& hiprtc, const std::string& source,
             const std::vector<std::string>& options, HiprtcReply& reply) {
  std::vector<const char*> pointers;
  for (const std::string& option : options) pointers.push_back(option.c_str());
  Program program = nullptr;
  int result = hiprtc.create(&program, source.c_str(), "unit", 0, nullptr, nullptr);
  if (result == 0)
    result = hiprtc.compile(program, static_cast<int>(pointers.size()), pointers.data());
  if (result != 0) {
    reply.outcome = HiprtcReply::refused;
    reply.words = hiprtc.error_text(result);
    if (program) reply.words += "\n" + sized(program, hiprtc.log_size, hiprtc.log);
    return;
  }
  reply.code = sized(program, hiprtc.code_size, hiprtc.code);
}

HiprtcReply answer(const std::vector<std::string>& request) {
  HiprtcReply reply;
  const Hiprtc hiprtc(request[1]);
  if (!hiprtc.compile) {
    reply.outcome = HiprtcReply::missing;
    reply.words = hiprtc.trace;
    return reply;
  }
  reply.outcome = HiprtcReply::done;
  int major = 0, minor = 0;
  hiprtc.version(&major, &minor);
  reply.version = std::to_string(major) + "." + std::to_string(minor);
  Program probe = nullptr;  // to make hipRTC open the libraries that it opens late
  hiprtc.create(&probe, "", "probe", 0, nullptr, nullptr);
  dl_iterate_phdr(add_vendor_library, &reply.libraries);
  if (request[0] == hiprtc_compile)
    compile(hiprtc, request[2], {request.begin() + 3, request.end()}, reply);
  return reply;
}

bool write_all(int file, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace
}  // namespace liger

int main() {
  using namespace liger;
  // What the libraries print must not mix with the reply.
  const int reply_file = dup(STDOUT_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO);

  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  const auto request = decoded(input);
  if (!request || request->size() < 3) {
    std::cerr << "liger-hiprtc-helper compiles for liger_jit and is not called by hand\n";
    return 2;
  }
  const HiprtcReply reply = answer(*request);
  const std::string bytes = encoded({std::string(HiprtcReply::greeting), reply.outcome,
                                     reply.version, reply.libraries, reply.words, reply.code});
  // Without exit handlers: those of the libraries have been seen to crash.
  _exit(write_all(reply_file, bytes) ? 0 : 1);
}
