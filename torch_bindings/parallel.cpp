// Blocks of the host device run on torch's thread pool.
#include <ATen/Parallel.h>

#include "runtime/device/device.h"

namespace liger::torch_bindings {
namespace {

void spread(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  at::parallel_for(0, count, grain, body);
}

[[maybe_unused]] const bool installed = [] {
  set_parallel_for(spread, at::get_num_threads());
  return true;
}();

}  // namespace
}  // namespace liger::torch_bindings
