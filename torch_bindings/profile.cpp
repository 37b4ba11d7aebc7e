// Compiles, loads and searches are ranges of torch's profiler, and so NVTX ranges where
// torch.autograd.profiler.emit_nvtx() or `nsys --pytorch` asks for these.
#include <ATen/record_function.h>

#include <memory>
#include <string>

#include "base/profile_range.h"

namespace liger::torch_bindings {
namespace {

void* begin(std::string_view name) {
  auto callbacks = at::getStepCallbacksUnlessEmpty(at::RecordScope::USER_SCOPE);
  if (!callbacks) return nullptr;
  auto record = std::make_unique<at::RecordFunction>(std::move(*callbacks));
  record->before(std::string(name));
  return record.release();
}

void end(void* record) { delete static_cast<at::RecordFunction*>(record); }

[[maybe_unused]] const bool installed = [] {
  ProfileRange::set(begin, end);
  return true;
}();

}  // namespace
}  // namespace liger::torch_bindings
