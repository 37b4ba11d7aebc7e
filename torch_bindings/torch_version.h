// What differs between the releases of torch that these sources serve: all of it, and only here.
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/headeronly/version.h>

#include <memory>
#include <utility>

namespace liger::torch_bindings {

// Who holds a node of the graph. Both kinds take a long graph apart without a deep recursion, the
// first by its deleter.
#if TORCH_VERSION_MINOR < 13
template <class Kind>
using NodePointer = std::shared_ptr<Kind>;

template <class Kind, class... Arguments>
NodePointer<Kind> make_node(Arguments&&... arguments) {
  return {new Kind(std::forward<Arguments>(arguments)...), torch::autograd::deleteNode};
}
#else
template <class Kind>
using NodePointer = c10::intrusive_ptr<Kind>;

template <class Kind, class... Arguments>
NodePointer<Kind> make_node(Arguments&&... arguments) {
  return c10::make_intrusive<Kind>(std::forward<Arguments>(arguments)...);
}
#endif

// The release that this binding was compiled for.
inline constexpr const char* torch_version = TORCH_VERSION;

}  // namespace liger::torch_bindings
