// An op's gradient declaration with its names resolved to indices: the autograd node looks up no
// name while it runs.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <optional>
#include <vector>

#include "engine/op.h"

namespace liger::torch_bindings {

// Found at the first use: when an op is registered, the one it calls may not be.
class OperatorByName {
 public:
  explicit OperatorByName(std::string name) : name_(std::move(name)) {}
  const c10::OperatorHandle& operator()() const;

 private:
  std::string name_;
  mutable std::once_flag once_;
  mutable std::optional<c10::OperatorHandle> handle_;
};

struct Wiring {
  explicit Wiring(const Op& op);

  struct Differentiable {
    int input;
    int gradient;      // output of the backward, or of a forward that makes its gradients; -1: none
    uint32_t through;  // by bits: the outputs that depend on it
    int added_to;      // the output that it was added to; -1: none
  };
  struct Saved {
    bool is_input;
    int index;
  };

  const Op& op;
  std::string node_name;
  std::vector<Differentiable> differentiable;
  std::vector<int> constants;  // tensor inputs without a gradient
  std::vector<int> scalars;    // inputs that are no tensors
  std::vector<Saved> saved;
  int gradients = 0;                    // outputs of the backward
  std::vector<c10::IValue> masks;       // by bits: the lists that ask the backward for some of them
  size_t outputs_with_history = 0;      // up to the last differentiable one
  int needs_grad_flag = -1;             // input that asks a forward for what gradients need
  OperatorByName kept_by, finished_by;  // the op's two parts, if it has them
  bool in_parts = false;
  OperatorByName backward;
  OperatorByName donating_backward;
  uint32_t dispensable = 0;  // by bits: outputs whose gradient the backward need not be given
  uint32_t overwritten = 0;  // by bits: those of `saved` that the last backward writes
  bool overwrites(size_t saved_one) const { return (overwritten >> saved_one & 1) != 0; }
};

}  // namespace liger::torch_bindings
