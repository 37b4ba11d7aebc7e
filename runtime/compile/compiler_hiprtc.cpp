// hipRTC, always in a helper process: an architecture that it does not know ends the process it
// runs in.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <sstream>

#include "base/process.h"
#include "base/process_state.h"
#include "base/shared_library.h"
#include "base/text.h"
#include "runtime/backends.h"
#include "runtime/compile/hip_libraries.h"
#include "runtime/compile/hiprtc_message.h"
#include "runtime/private_folder.h"

namespace liger {
namespace {

constexpr double timeout_seconds = 120;
constexpr const char* empty_kernel = "extern \"C\" __global__ void liger_nothing() {}\n";

std::string& helper_path() {
  static auto& path = *new std::string(own_folder() + "/liger-hiprtc-helper");
  return path;
}

// Either a reply, or why there is none.
struct Answer {
  std::optional<HiprtcReply> reply;
  std::string trouble;
};

Answer ask(std::string_view command, const std::string& source,
           const std::vector<std::string>& options) {
  const std::string& program = helper_path();
  if (!find_program({program}))
    throw Error(ErrorKind::compile,
                fmt::format("{} is missing or cannot be run: it is a part of liger_jit that "
                            "compiles for AMD GPUs; install liger_jit anew",
                            program));
  std::vector<std::string> request = {std::string(command), fmt::join(hiprtc_candidates(), "\n"),
                                      source};
  request.insert(request.end(), options.begin(), options.end());
  std::optional<ProcessResult> asked;
  for (const std::string& place : PrivateFolder::places()) {
    const PrivateFolder folder(place);  // a process that is ended leaves its temporary files behind
    if (folder.path().empty()) continue;
    std::vector<std::string> variables = folder.as_environment();
    variables.emplace_back("AMD_COMGR_CACHE=0");
    asked = run_process({program}, encoded(request), timeout_seconds, variables);
    if (asked->ok() || folder.has_room()) break;
  }
  if (!asked) PrivateFolder::refuse();
  const ProcessResult& result = *asked;

  if (result.timed_out)
    return {{}, fmt::format("hipRTC did not finish within {} seconds", timeout_seconds)};
  if (!result.ok())
    return {{},
            fmt::format("hipRTC ended its process ({} {}): {}", result.signal ? "signal" : "exit",
                        result.signal ? result.signal : result.exit_code, result.error)};
  auto texts = decoded(result.output);
  if (!texts || texts->size() != 6 || texts->front() != HiprtcReply::greeting)
    return {{}, fmt::format("{} gave no reply that can be read: {}", program, result.error)};
  std::vector<std::string>& t = *texts;
  return {HiprtcReply{t[1], t[2], t[3], t[4], t[5]}, {}};
}

// A number of the kernel's metadata: the key as a short msgpack string, then an integer. A code
// object holds one kernel, so the first is the right one.
int metadata_number(std::string_view code, std::string_view key) {
  std::string needle(1, static_cast<char>(0xa0 | key.size()));
  needle += key;
  size_t at = code.find(needle);
  if (at == std::string_view::npos) return -1;
  at += needle.size();
  const auto byte = [&](size_t offset) -> int {
    return at + offset < code.size() ? static_cast<unsigned char>(code[at + offset]) : 0;
  };
  switch (byte(0)) {
    case 0xcc:
      return byte(1);
    case 0xcd:
      return byte(1) << 8 | byte(2);
    case 0xce:
      return byte(1) << 24 | byte(2) << 16 | byte(3) << 8 | byte(4);
    default:
      return byte(0) < 0x80 ? byte(0) : -1;
  }
}

Resources resources_of(std::string_view code) {
  const int vector_spills = metadata_number(code, ".vgpr_spill_count");
  const int scalar_spills = metadata_number(code, ".sgpr_spill_count");
  return {.registers = metadata_number(code, ".vgpr_count"),
          .spill_bytes = vector_spills < 0 ? -1 : 4 * (vector_spills + std::max(0, scalar_spills)),
          .stack_bytes = metadata_number(code, ".private_segment_fixed_size"),
          .shared_bytes = metadata_number(code, ".group_segment_fixed_size")};
}

// The headers that hipRTC puts before each program are in a file beside some releases of it.
std::set<std::string> with_builtins(const std::string& library_lines) {
  namespace fs = std::filesystem;
  std::set<std::string> files;
  std::istringstream lines(library_lines);
  for (std::string line; std::getline(lines, line);) {
    std::error_code ignored;
    files.insert(fs::canonical(line, ignored).string());
    if (line.find("/libamdhip64") == std::string::npos &&
        line.find("/libhiprtc") == std::string::npos)
      continue;
    for (const auto& beside : fs::directory_iterator(fs::path(line).parent_path(), ignored))
      if (beside.path().filename().string().starts_with("libhiprtc-builtins.so"))
        files.insert(fs::canonical(beside.path(), ignored).string());
  }
  files.erase("");
  return files;
}

class HiprtcCompiler final : public Compiler {
 public:
  ~HiprtcCompiler() override {
    Searches& searches = ProcessState<Searches>::get();
    const std::lock_guard lock(searches.mutex);
    searches.found.erase(this);
  }

  CompilerState state() override {
    CompilerState state;
    try {
      const Found& found = this->found();
      state = {true, found.path, "hipRTC " + found.version, {}};
    } catch (const std::exception& error) {
      state.problem = error.what();
    }
    return state;
  }

  std::string identity() override { return found().identity; }

  std::string options(const Target& target) override { return fmt::join(option_list(target), " "); }

  Binary compile(const Unit& unit, const Target& target) override {
    const Found& found = this->found();
    const auto start = std::chrono::steady_clock::now();
    Answer answer = ask(hiprtc_compile, unit.expanded, option_list(target));
    if (!answer.reply || answer.reply->outcome != HiprtcReply::done || answer.reply->code.empty()) {
      if (!knows(target))
        throw Error(ErrorKind::unsupported,
                    fmt::format("hipRTC {} ({}) cannot make code for {}. Install a ROCm release "
                                "that knows it, or name its libamdhip64.so with LIGER_JIT_HIP",
                                found.version, found.path, target.arch));
      throw compile_error(unit, target, answer.reply ? answer.reply->words : answer.trouble);
    }
    Binary binary;
    binary.bytes = std::move(answer.reply->code);
    binary.resources = resources_of(binary.bytes);
    binary.compile_ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    return binary;
  }

 private:
  struct Found {
    std::string path;
    std::string version;
    std::string identity;
  };

  const Found& found() {
    Searches& searches = ProcessState<Searches>::get();
    const std::lock_guard lock(searches.mutex);
    Found& found = searches.found[this];
    if (!found.identity.empty()) return found;
    const Answer answer = ask(hiprtc_identify, {}, {});
    if (!answer.reply) throw Error(ErrorKind::compile, answer.trouble);
    if (answer.reply->outcome != HiprtcReply::done)
      throw Error(ErrorKind::compile,
                  fmt::format("hipRTC, the compiler for AMD GPUs, was not found. Install ROCm's "
                              "HIP runtime or set LIGER_JIT_HIP to libamdhip64.so. Looked for:\n{}",
                              answer.reply->words));
    found.version = answer.reply->version;
    found.path = answer.reply->libraries.substr(0, answer.reply->libraries.find('\n'));
    std::string identity = "hiprtc " + found.version;
    for (const std::string& file : with_builtins(answer.reply->libraries)) {
      const std::string name = std::filesystem::path(file).filename().string();
      identity += fmt::format(" {} {}", name.substr(0, name.find('.')), build_identity(file));
    }
    found.identity = std::move(identity);
    return found;
  }

  // Asked only after a failure: can an empty kernel be made for it?
  bool knows(const Target& target) {
    if (target.backend != Backend::hip) return false;
    const Answer answer = ask(hiprtc_compile, empty_kernel, option_list(target));
    return answer.reply && answer.reply->outcome == HiprtcReply::done &&
           !answer.reply->code.empty();
  }

  // Contraction is off: kernels spell their fmaf, so that all variants give the same bits.
  static std::vector<std::string> option_list(const Target& target) {
    return {"--offload-arch=" + target.arch, "-std=c++20", "-O3", "-ffp-contract=off"};
  }

  struct Searches {
    std::mutex mutex;
    std::map<const HiprtcCompiler*, Found> found;
  };
};

}  // namespace

void set_hiprtc_helper(std::string path) { helper_path() = std::move(path); }

std::unique_ptr<Compiler> make_hiprtc_compiler() { return std::make_unique<HiprtcCompiler>(); }

}  // namespace liger
