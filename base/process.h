// Runs a program, feeds its standard input and collects what it prints. No shell is involved.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace liger {

struct ProcessResult {
  int exit_code = -1;  // of a normal exit
  int signal = 0;      // that ended it, 0 for none
  bool timed_out = false;
  std::string output;  // standard output
  std::string error;   // standard error
  bool ok() const { return exit_code == 0 && signal == 0 && !timed_out; }
};

// The program's whole environment is PATH and LD_LIBRARY_PATH of this process, without which it may
// not start, LC_ALL=C, and `environment`, lines of NAME=value: what else a user has set could
// change what a compiler makes, and is in no key. Raises Error(compile) only when the program
// cannot be started at all.
ProcessResult run_process(const std::vector<std::string>& arguments, const std::string& input = {},
                          double timeout_seconds = 300,
                          const std::vector<std::string>& environment = {});

// Raises Error(compile) that says why, of an errno.
[[noreturn]] void cannot_start(const std::string& program, int error_number);

// Starts one with these descriptors, none of them below 3, as its standard input, output and error,
// in a process group and an environment as above. Who calls this waits for it. Raises as above.
pid_t start_process(std::vector<std::string> arguments, const std::vector<std::string>& environment,
                    const int (&standard)[3]);

// The first of `names` found on PATH (or itself, if it holds a slash and can be run).
std::optional<std::string> find_program(const std::vector<std::string>& names);

}  // namespace liger
