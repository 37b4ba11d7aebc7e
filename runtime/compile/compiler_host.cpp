// The system's C++ compiler: the unit goes in by a pipe, a shared library comes out.
#include <chrono>
#include <mutex>
#include <optional>
#include <vector>

#include "base/environment.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/process.h"
#include "base/process_state.h"
#include "base/text.h"
#include "runtime/backends.h"
#include "runtime/private_folder.h"

namespace liger {
namespace {

struct Program {
  std::string path;
  std::string version;  // first line of --version
  std::string machine;  // of -dumpmachine
};

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

std::string missing_message() {
  const std::string& asked = environment().host_compiler;
  if (!asked.empty())
    return fmt::format(
        "LIGER_JIT_CXX names \"{}\", which is not a program that can be run. Unset it or name a "
        "C++20 compiler",
        asked);
  return "no C++ compiler: looked for c++, g++ and clang++ on PATH. Install g++ 11 or newer (or "
         "clang 14 or newer), or set LIGER_JIT_CXX to its path";
}

Program find_compiler() {
  const std::string& asked = environment().host_compiler;
  const auto names = asked.empty() ? std::vector<std::string>{"c++", "g++", "clang++"}
                                   : std::vector<std::string>{asked};
  const auto path = find_program(names);
  if (!path) throw Error(ErrorKind::compile, missing_message());

  const PrivateFolder folder(PrivateFolder::places().front());
  const auto ask = [&](const char* option) {
    const ProcessResult result = run_process({*path, option}, {}, 60, folder.as_environment());
    if (!result.ok() || result.output.empty())
      throw Error(ErrorKind::compile, fmt::format("{} {} failed: {}", *path, option, result.error));
    return first_line(result.output);
  };
  return {*path, ask("--version"), ask("-dumpmachine")};
}

class HostCompiler final : public Compiler {
 public:
  CompilerState state() override {
    CompilerState state;
    try {
      const Program& program = this->program();
      state = {true, program.path, program.version, {}};
    } catch (const Error& error) {
      state.problem = error.what();
    }
    return state;
  }

  std::string identity() override {
    const Program& program = this->program();
    return fmt::format("host {}", hash128(program.version + "\n" + program.machine).hex());
  }

  std::string options(const Target& target) override { return fmt::join(option_list(target), " "); }

  Binary compile(const Unit& unit, const Target& target) override {
    const Program& program = this->program();
    const bool for_x86 = target.arch.starts_with("x86-64");
    if (target.backend != Backend::cpu || for_x86 != program.machine.starts_with("x86_64"))
      throw unknown_target(target);

    const auto start = std::chrono::steady_clock::now();
    for (const std::string& place : PrivateFolder::places()) {
      const PrivateFolder folder(place);
      if (folder.path().empty()) continue;
      std::optional<std::string> bytes = compile_in(folder, program, unit, target);
      if (!bytes) continue;
      Binary binary;
      binary.bytes = std::move(*bytes);
      const auto spent = std::chrono::steady_clock::now() - start;
      binary.compile_ms = std::chrono::duration<double, std::milli>(spent).count();
      return binary;
    }
    PrivateFolder::refuse();
  }

 private:
  // The library; nothing where the folder was too full for it.
  std::optional<std::string> compile_in(const PrivateFolder& folder, const Program& program,
                                        const Unit& unit, const Target& target) {
    const std::string output = folder.path() + "/unit.so";
    std::vector<std::string> arguments = {program.path};
    for (std::string& option : option_list(target)) arguments.push_back(std::move(option));
    arguments.insert(arguments.end(), {"-x", "c++", "-", "-o", output});
    const ProcessResult result =
        run_process(arguments, unit.expanded, 300, folder.as_environment());

    if (result.ok()) {
      auto bytes = read_file(output);
      if (bytes && !bytes->empty()) return bytes;
    } else if (result.error.find("-march") != std::string::npos ||
               result.error.find("unknown target CPU") != std::string::npos) {
      throw unknown_target(target);
    }
    if (!folder.has_room()) return std::nullopt;
    throw compile_error(
        unit, target,
        result.ok() ? program.path + " succeeded but wrote no library" : words_of(result));
  }

  const Program& program() {
    Search& search = ProcessState<Search>::get();
    const std::lock_guard lock(search.mutex);
    if (search.program.path.empty()) search.program = find_compiler();
    return search.program;
  }

  Error unknown_target(const Target& target) {
    const Program& found = program();
    return Error(ErrorKind::unsupported, fmt::format("{} ({}) cannot make code for {}", found.path,
                                                     found.version, target.arch));
  }

  static std::string words_of(const ProcessResult& result) {
    if (result.timed_out) return "the compiler did not finish within 300 seconds";
    if (result.signal != 0)
      return fmt::format("the compiler was ended by signal {}\n{}", result.signal, result.error);
    return result.error;
  }

  // Contraction is off so that every compiler and level gives the same bits; errno and traps are
  // the only parts of the floating-point contract that are given up. Stripped: no path stays
  // inside.
  static std::vector<std::string> option_list(const Target& target) {
    std::vector<std::string> options = {"-std=c++20",
                                        "-O3",
                                        "-march=" + target.arch,
                                        "-shared",
                                        "-fPIC",
                                        "-fvisibility=hidden",
                                        "-fno-exceptions",
                                        "-fno-rtti",
                                        "-ffp-contract=off",
                                        "-fno-math-errno",
                                        "-fno-trapping-math",
                                        "-Wl,-s",
                                        "-Wl,--as-needed",
                                        "-Wl,--build-id=none"};
    // A pack of eight floats, as which all is written: twice as wide, GCC puts two together one
    // element after another, and gated activations take twice the time.
    if (target.arch == "x86-64-v4") options.push_back("-mprefer-vector-width=256");
    return options;
  }

  struct Search {
    std::mutex mutex;
    Program program;
  };
};

}  // namespace

std::unique_ptr<Compiler> make_host_compiler() { return std::make_unique<HostCompiler>(); }

}  // namespace liger
