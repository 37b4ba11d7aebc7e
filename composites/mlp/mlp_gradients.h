// What a gated MLP that keeps gate and up and one that makes them anew share.
#pragma once

#include <ATen/ops/empty.h>

#include "torch_bindings/composite_call.h"

namespace liger::torch_bindings {

// Two matrices of one width, which may be the halves of one in memory.
struct Pair {
  at::Tensor gate, up;
  at::Tensor both;  // undefined if they are apart

  static Pair halves_of(const at::Tensor& both) {
    const int64_t width = both.size(1) / 2;
    return {both.narrow(1, 0, width), both.narrow(1, width, width), both};
  }
  // `up` is undefined where `gate` holds both.
  static Pair given(const at::Tensor& gate, const at::Tensor& up) {
    return up.defined() ? Pair{gate, up, {}} : halves_of(gate);
  }
  Pair like_it() const {
    if (both.defined()) return halves_of(at::empty(both.sizes(), both.options()));
    return {at::empty(gate.sizes(), gate.options()), at::empty(up.sizes(), up.options()), {}};
  }
};

// x @ gate_weight.T and x @ up_weight.T
Pair gate_and_up(const CompositeCall& in, const at::Tensor& x);

// act(gate) * up
at::Tensor gated(const CompositeCall& in, const Pair& pair);

// The gradients of one backward, as sums over shards of its rows.
class MlpGradients {
 public:
  // Sums over several shards are kept in `sum_type`.
  MlpGradients(const CompositeCall& in, at::ScalarType sum_type);

  // Adds what some rows give to the weights' gradients and writes `dx`, which may be undefined: it
  // is made then. `in_place`: the gradients of gate and up overwrite them. Buffers are made in the
  // order in which others can be freed.
  void add(const at::Tensor& dy, const at::Tensor& x, Pair pair, at::Tensor& dx, bool in_place);

  bool wants_dx() const { return wants_grad_[0]; }

  // Outputs of the backward op, in x's type.
  Tensors results(const at::Tensor& dx);

 private:
  void add_to(at::Tensor& sum, const at::Tensor& left, const at::Tensor& right);
  at::Tensor through_middle(const at::Tensor& dy, const Pair& pair, const Pair& gradients);
  void write_dx(at::Tensor& dx, const Pair& gradients) const;

  const CompositeCall& in_;
  const at::ScalarType sum_type_;
  const bool packed_;
  bool wants_grad_[4];
  at::Tensor dgate_, dup_, ddown_;
};

}  // namespace liger::torch_bindings
