// NVRTC in this process or in one of a compiling thread's own, straight to machine code for one
// exact architecture. For a GPU that it does not know yet it makes intermediate code (PTX), which
// that GPU's driver finishes.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <mutex>

#include "base/environment.h"
#include "base/log.h"
#include "base/process_state.h"
#include "base/text.h"
#include "runtime/backends.h"
#include "runtime/compile/library_search.h"
#include "runtime/compile/nvrtc_process.h"
#include "runtime/compile/nvrtc_program.h"

namespace liger {
namespace {

// The number that stands before `unit` in ptxas's report, searched from `start`; else -1.
int number_before(std::string_view report, std::string_view unit, size_t start) {
  const size_t end = report.find(unit, start);
  if (end == std::string_view::npos) return -1;
  size_t first = end;
  while (first > 0 && isdigit(static_cast<unsigned char>(report[first - 1]))) --first;
  int number = -1;
  std::from_chars(report.data() + first, report.data() + end, number);
  return number;
}

// A function that was not inlined has lines of its own; only those of the entry count.
Resources resources_of(std::string_view report, std::string_view symbol) {
  Resources resources;
  const size_t entry = report.find(fmt::format("Function properties for {}", symbol));
  if (entry == std::string_view::npos) return resources;
  resources.registers = number_before(report, " registers", entry);
  resources.stack_bytes = number_before(report, " bytes stack frame", entry);
  const int stored = number_before(report, " bytes spill stores", entry);
  const int loaded = number_before(report, " bytes spill loads", entry);
  resources.spill_bytes = std::max(stored, loaded);
  // ptxas leaves out what is not used.
  if (resources.registers >= 0)
    resources.shared_bytes = std::max(0, number_before(report, " bytes smem", entry));
  return resources;
}

// In the words of the option parser, or of the front end when only the letter is wrong.
bool refuses_architecture(std::string_view log) {
  return log.find("invalid value for --gpu-architecture") != std::string_view::npos ||
         log.find("no value specified with --nv_arch") != std::string_view::npos;
}

constexpr std::string_view newer_nvrtc =
    "Install a newer NVRTC (`pip install --upgrade nvidia-cuda-nvrtc`, for CUDA 12 "
    "nvidia-cuda-nvrtc-cu12) or name its libnvrtc.so with LIGER_JIT_NVRTC";
constexpr std::string_view older_nvrtc =
    "Install one that still knows it (`pip install nvidia-cuda-nvrtc-cu12`) and name its "
    "libnvrtc.so with LIGER_JIT_NVRTC";

std::vector<std::string> candidates() {
  const std::string& asked = environment().nvrtc_library;
  if (!asked.empty()) return {asked};
  return joined({loaded_libraries("libnvrtc.so"),
                 packaged_libraries(
                     {"nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"}),
                 {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"},
                 {"/usr/local/cuda/lib64/libnvrtc.so"}});
}

class NvrtcCompiler final : public Compiler {
 public:
  CompilerState state() override {
    CompilerState state;
    try {
      const NvrtcLibrary& nvrtc = library();
      state = {true, nvrtc.library.path(), "NVRTC " + nvrtc.version_text(), {}};
    } catch (const std::exception& error) {
      state.problem = error.what();
    }
    return state;
  }

  std::string identity() override {
    const NvrtcLibrary& nvrtc = library();
    Search& search = ProcessState<Search>::get();
    const std::lock_guard lock(search.mutex);
    if (search.identity.empty())
      search.identity = fmt::format("nvrtc {} {}", nvrtc.version_text(), nvrtc.build());
    return search.identity;
  }

  std::string intermediate(const Target& target) override {
    const std::vector<int> known = library().architectures();
    const int number = compute_capability(target);
    if (target.backend != Backend::cuda || std::ranges::find(known, number) != known.end())
      return {};
    const std::optional<int> other = stand_in_for(number, known);
    return other ? fmt::format("compute_{}", *other) : std::string();
  }

  std::string options(const Target& target) override {
    warn_of_intermediate(target);
    std::string options = fmt::join(code_options(target), " ");
    // A name in NVRTC 13 for options from the environment of its process, which is not ours to
    // change.
    const char* const appended = std::getenv("NVRTC_APPEND_FLAGS");
    if (appended && *appended) options += fmt::format(" NVRTC_APPEND_FLAGS={}", appended);
    return options;
  }

  Binary compile(const Unit& unit, const Target& target) override {
    const NvrtcLibrary& nvrtc = library();
    const bool to_intermediate = !intermediate(target).empty();
    if (!to_intermediate) check_known(nvrtc, unit, target);
    std::vector<std::string> options = code_options(target);
    options.push_back("--ptxas-options=-v");
    // One cache is enough, and its own would start the driver on a compiling thread.
    if (nvrtc.at_least(12, 9)) options.push_back("--no-cache");

    const auto start = std::chrono::steady_clock::now();
    const NvrtcRequest request{to_intermediate, unit.expanded, std::move(options)};
    std::optional<NvrtcResult> result = OwnNvrtc::compile(nvrtc, request);
    if (!result) result = compile_by(nvrtc, request);
    if (!result->is_done()) {
      if (refuses_architecture(result->log)) throw unknown_target(nvrtc, unit, target);
      throw compile_error(unit, target, fmt::format("{}\n{}", result->error, result->log));
    }
    Binary binary;
    binary.bytes = std::move(result->code);
    if (binary.bytes.empty())
      throw compile_error(unit, target, "NVRTC gave no code\n" + result->log);
    binary.resources = resources_of(result->log, entry_symbol(unit.kernel));
    binary.compile_ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    return binary;
  }

 private:
  const NvrtcLibrary& library() {
    Search& search = ProcessState<Search>::get();
    const std::lock_guard lock(search.mutex);
    if (!search.library) search.library = std::make_unique<NvrtcLibrary>(candidates());
    return *search.library;
  }

  // Contraction is off: kernels spell their fmaf, so that all variants give the same bits. The
  // number of parts that a program is split into changes the code, hence it is fixed.
  std::vector<std::string> code_options(const Target& target) {
    const NvrtcLibrary& nvrtc = library();
    const std::string other = intermediate(target);
    std::vector<std::string> options = {
        "--gpu-architecture=" + (other.empty() ? target.arch : other), "-std=c++20",
        "--fmad=false"};
    if (nvrtc.at_least(12, 4)) options.push_back("--minimal");
    if (nvrtc.at_least(12, 9)) options.push_back("--split-compile=1");
    return options;
  }

  void warn_of_intermediate(const Target& target) {
    const std::string other = intermediate(target);
    if (other.empty()) return;
    const NvrtcLibrary& nvrtc = library();
    warn_once("intermediate " + target.arch,
              fmt::format("NVRTC {} ({}) does not know {}: it makes code for {}, which the driver "
                          "compiles again when it loads it, and which uses nothing that is new in "
                          "{}. {}",
                          nvrtc.version_text(), nvrtc.library.path(), target.arch, other,
                          target.arch, newer_nvrtc));
  }

  static Error unknown_target(const NvrtcLibrary& nvrtc, const Unit& unit, const Target& target) {
    const std::vector<int> known = nvrtc.architectures();
    const bool is_older = !known.empty() && compute_capability(target) < std::ranges::min(known);
    std::vector<std::string> names;
    for (const int number : known) names.push_back(fmt::format("sm_{}", number));
    return Error(ErrorKind::unsupported,
                 fmt::format("{}: NVRTC {} ({}) cannot make code for {}; it knows {}. {}",
                             unit.kernel, nvrtc.version_text(), nvrtc.library.path(), target.arch,
                             fmt::join(names, ", "), is_older ? older_nvrtc : newer_nvrtc));
  }

  static void check_known(const NvrtcLibrary& nvrtc, const Unit& unit, const Target& target) {
    const std::vector<int> known = nvrtc.architectures();
    if (target.backend != Backend::cuda ||
        std::ranges::find(known, compute_capability(target)) == known.end())
      throw unknown_target(nvrtc, unit, target);
  }

  struct Search {
    std::mutex mutex;
    std::unique_ptr<NvrtcLibrary> library;
    std::string identity;
  };
};

}  // namespace

std::unique_ptr<Compiler> make_nvrtc_compiler() { return std::make_unique<NvrtcCompiler>(); }

}  // namespace liger
