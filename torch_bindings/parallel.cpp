// Blocks of the host device run on torch's thread pool.
#include <ATen/Parallel.h>

#include "runtime/device/device.h"

#ifdef _OPENMP
// Weak: they are those of the runtime that torch has loaded, so there is one pool, and
// torch.set_num_threads is its size. To link a runtime would be to load a second.
asm(".weak GOMP_parallel\n"
    ".weak omp_get_num_threads\n"
    ".weak omp_get_thread_num\n");
extern "C" [[gnu::weak]] int omp_get_num_threads();
#endif

namespace liger::torch_bindings {
namespace {

void spread(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  at::parallel_for(0, count, grain, body);
}

[[maybe_unused]] const bool installed = [] {
#ifdef _OPENMP
  if (omp_get_num_threads == nullptr) return false;  // a torch with another pool
#endif
  set_parallel_for(spread, at::get_num_threads());
  return true;
}();

}  // namespace
}  // namespace liger::torch_bindings
