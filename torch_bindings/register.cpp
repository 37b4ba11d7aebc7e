// One loop gives every op of the registry its schema and kernels.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include "ops/registry.h"
#include "torch_bindings/kernels.h"
#include "torch_bindings/text_operators.h"

namespace liger::torch_bindings {
namespace {

template <class Kernel, class... Arguments>
torch::CppFunction boxed(Arguments&&... arguments) {
  return torch::CppFunction::makeFromBoxedFunctor(
      std::make_unique<Kernel>(std::forward<Arguments>(arguments)...));
}

bool overwrites(const Op& op) {
  for (const Input& input : op.inputs) {
    if (input.written) return true;
  }
  return false;
}

torch::CppFunction autograd_kernel(const Op& op) {
  if (op.gradient.exists()) return boxed<AutogradKernel>(op);
  if (overwrites(op)) return boxed<MutableKernel>(op);
  // A backward of a backward raises, naming the op.
  return torch::autograd::autogradNotImplementedFallback();
}

void register_op(torch::Library& library, const Op& op) {
  library.def(torch::schema(op.schema().c_str()), {at::Tag::pt2_compliant_tag});
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl(op.name.c_str(), key, boxed<BackendKernel>(op));
  }
  library.impl(op.name.c_str(), c10::DispatchKey::Meta, boxed<MetaKernel>(op));
  library.impl(op.name.c_str(), c10::DispatchKey::Autograd, autograd_kernel(op));
  if (op.autocast == Autocast::lower) {
    library.impl(op.name.c_str(), c10::DispatchKey::AutocastCPU,
                 boxed<AutocastKernel>(op, c10::kCPU));
    library.impl(op.name.c_str(), c10::DispatchKey::AutocastCUDA,
                 boxed<AutocastKernel>(op, c10::kCUDA));
  }
}

}  // namespace

TORCH_LIBRARY(liger_jit, library) {
  for (const Op& op : registry()) register_op(library, op);
  register_text_operators(library);
}

}  // namespace liger::torch_bindings
