// liger-nvrtc-helper LIBRARY: compiles by this NVRTC what it is asked for on its standard input, a
// socket, one after another, until that ends. It ends itself when anything is amiss.
#include <unistd.h>

#include <iostream>

#include "base/error.h"
#include "base/serving_process.h"
#include "runtime/compile/nvrtc_message.h"

namespace liger {
namespace {

int serve(const std::string& path) {
  // What the library prints must not mix with the replies.
  const int socket = dup(STDOUT_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  const NvrtcLibrary nvrtc({path});
  if (!send_message(socket, encoded({std::string(nvrtc_greeting), nvrtc.build()}))) return 1;
  while (const std::optional<std::string> bytes = receive_message(socket)) {
    const std::optional<NvrtcRequest> request = request_in(*bytes);
    if (!request || !send_message(socket, message_of(compile_by(nvrtc, *request)))) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace liger

int main(int count, char** arguments) {
  if (count != 2) {
    std::cerr << "liger-nvrtc-helper compiles for liger_jit and is not called by hand\n";
    return 2;
  }
  int code = 1;
  try {
    code = liger::serve(arguments[1]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
  }
  // Without exit handlers: those of the library are nobody's to wait for.
  _exit(code);
}
