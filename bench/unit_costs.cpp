// What a cold compile costs: the unit of every kernel that the examples of every op launch, with
// the length of its source and the milliseconds of its compile.
//
//   build/native/unit_costs TARGET [THREADS [FOLDER]]     TARGET: sm_90a, gfx90a, x86-64-v3 ...
//
// THREADS compile at once (1). Sources and binaries are left in FOLDER. Prints one line of JSON a
// unit, `cpu_ms` being what the compiling thread computed itself, and at last one of the whole.
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/shared_library.h"
#include "base/text.h"
#include "engine/plan.h"
#include "engine/registry.h"
#include "engine/report/describe.h"
#include "runtime/backends.h"
#include "runtime/compile/compiler.h"
#include "runtime/compile/nvrtc_process.h"

namespace {

using namespace liger;

struct Case {
  std::string op;
  std::string dtype;
  int64_t size;
  Unit unit;
  double compile_ms = 0;
  double cpu_ms = 0;
};

// Sizes of a step, and awkward ones: a row that starts anywhere, one that no block holds.
struct Sizes {
  int64_t rows, size, inner;
};
const std::vector<Sizes> tried = {
    {64, 4096, 1024}, {64, 64, 64}, {5, 1001, 100}, {8, 50257, 64}, {8, 128256, 64}};

std::vector<Case> cases_on(const Target& target) {
  std::vector<Case> cases;
  std::set<std::string> known;
  for (const Op& op : registry()) {
    if (op.kernels.empty()) continue;
    for (const char* const dtype : {"bf16", "f32"}) {
      for (const auto& [rows, size, inner] : tried) {
        const Extent extent{{"rows", rows}, {"size", size}, {"inner", inner}};
        const Call call = example_call(op, parse_dtype(dtype), extent, place_on(target, 0, 132));
        try {
          check_call(call);
        } catch (const Error&) {
          continue;  // a size that the op refuses
        }
        for (PlannedUnit& planned : units_of(call, false))
          if (known.insert(planned.unit.text).second)
            cases.push_back({op.name, dtype, size, std::move(planned.unit)});
      }
    }
  }
  return cases;
}

double thread_ms() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

void compile_all(std::vector<Case>& cases, const Target& target, int threads,
                 const std::string& folder) {
  Compiler& compiler = compiler_for(target.backend);
  std::atomic<size_t> next = 0;
  const auto work = [&](bool beside_others) {
    std::optional<OwnNvrtc> own;  // as threads of the background have it
    if (beside_others) own.emplace();
    for (size_t i = next++; i < cases.size(); i = next++) {
      Case& one = cases[i];
      const double start = thread_ms();
      const Binary binary = compiler.compile(one.unit, target);
      one.cpu_ms = thread_ms() - start;
      one.compile_ms = binary.compile_ms;
      if (folder.empty()) continue;
      const std::string path = liger::fmt::format("{}/{:03}_{}", folder, i, one.unit.kernel);
      std::ofstream(path + ".binary", std::ios::binary) << binary.bytes;
      std::ofstream(path + ".cpp") << one.unit.expanded;
    }
  };
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) pool.emplace_back(work, i > 0);
  for (std::thread& thread : pool) thread.join();
}

void run(const Target& target, int threads, const std::string& folder) {
  std::vector<Case> cases = cases_on(target);
  compiler_for(target.backend).identity();  // found and loaded before the first compile
  compile_all(cases, target, threads, folder);
  std::vector<double> sizes, times, computed;
  for (const Case& one : cases) {
    sizes.push_back(static_cast<double>(one.unit.expanded.size()));
    times.push_back(one.compile_ms);
    computed.push_back(one.cpu_ms);
    std::printf(R"({"op": "%s", "kernel": "%s", "dtype": "%s", "size": %lld, "bytes": %zu, )"
                R"("compile_ms": %.1f, "cpu_ms": %.1f})"
                "\n",
                one.op.c_str(), one.unit.kernel.c_str(), one.dtype.c_str(),
                static_cast<long long>(one.size), one.unit.expanded.size(), one.compile_ms,
                one.cpu_ms);
  }
  std::printf(R"({"units": %zu, "threads": %d, "bytes_p50": %.0f, "bytes_max": %.0f, )"
              R"("compile_ms_p50": %.1f, "compile_ms_p95": %.1f, "cpu_ms_p50": %.1f, )"
              R"("cpu_ms_p95": %.1f})"
              "\n",
              cases.size(), threads, percentile(sizes, 0.5), percentile(sizes, 1),
              percentile(times, 0.5), percentile(times, 0.95), percentile(computed, 0.5),
              percentile(computed, 0.95));
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 4) {
    std::fprintf(stderr, "usage: unit_costs TARGET [THREADS [FOLDER]]\n");
    return 2;
  }
  try {
    set_hiprtc_helper(own_folder() + "/liger-hiprtc-helper");
    run(parse_target(arguments[1]), count > 2 ? std::atoi(arguments[2]) : 1,
        count > 3 ? arguments[3] : "");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
