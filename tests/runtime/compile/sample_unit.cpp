#include "tests/runtime/compile/sample_unit.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/text.h"

namespace liger {
namespace {

constexpr std::string_view entry = R"(
struct Scale {
  const float* x;
  float* y;
  inline
#if defined(__CUDACC_RTC__) || defined(__HIPCC_RTC__)
  __device__
#endif
  void operator()(long long i) const { y[i] = factor * x[i]; }
};
#if defined(__CUDACC_RTC__) || defined(__HIPCC_RTC__)
extern "C" __global__ void __launch_bounds__(256) liger_Scale(const Scale kernel) {
  kernel(blockIdx.x);
}
#else
extern "C" __attribute__((visibility("default"))) void liger_Scale(
    const void* arguments, long long first_block, long long last_block) {
  for (long long block = first_block; block < last_block; ++block)
    (*static_cast<const Scale*>(arguments))(block);
}
#endif
)";

class TestCache {
 public:
  TestCache() {
    path = (std::filesystem::temp_directory_path() / "liger-runtime-test-XXXXXX").string();
    if (!mkdtemp(path.data())) std::abort();
    setenv("LIGER_JIT_CACHE", path.c_str(), 1);
    setenv("LIGER_JIT_CACHE_READONLY", (path + "/site").c_str(), 1);
  }
  ~TestCache() {
    std::error_code trouble;  // a thread that still publishes
    if (getpid() == owner_) std::filesystem::remove_all(path, trouble);
  }
  std::string path;

 private:
  pid_t owner_ = getpid();
};

const TestCache test_cache;

}  // namespace

Unit scale_unit(int factor) {
  Unit unit;
  unit.kernel = "Scale";
  unit.text = fmt::format("constexpr float factor = {};{}", factor, entry);
  unit.expanded = unit.text;
  return unit;
}

Unit broken_unit() {
  Unit unit = scale_unit(1);
  unit.expanded += "no_such_type here;\n";
  unit.text = unit.expanded;
  return unit;
}

const std::string& test_cache_folder() { return test_cache.path; }
std::string test_site_folder() { return test_cache.path + "/site"; }

}  // namespace liger
