// One loop gives every op of the registry its schema and kernels, when the library has been loaded:
// ops and composites add themselves while it is, and the linker may have put this file first.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include "engine/registry.h"
#include "torch_bindings/execute.h"
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

// Empty, or what is missing of the library.
std::string problem_of_registries() {
  std::string problem = registry_problem();
  for (const Op& op : registry()) {
    if (problem.empty() && op.kernels.empty() && !composite_of(op))
      problem = "the op " + op.name + " has neither kernels nor a composite in the library";
  }
  return problem;
}

std::string register_all() {
  std::string problem = problem_of_registries();
  if (!problem.empty()) return problem;
  try {
    // Lives as long as the operators do, to the end of the process.
    auto& library = *new torch::Library(MAKE_TORCH_LIBRARY(liger_jit));
    for (const Op& op : registry()) register_op(library, op);
    register_text_operators(library);
  } catch (const std::exception& error) {
    problem = error.what();
  }
  return problem;
}

}  // namespace

// For who has loaded the library: registers its operators with torch, the first time. Null, or what
// went wrong, in words that live as long as the library.
extern "C" __attribute__((visibility("default"))) const char* liger_jit_register() {
  static const std::string problem = register_all();
  return problem.empty() ? nullptr : problem.c_str();
}

}  // namespace liger::torch_bindings
