#include "composites/mlp/mlp_gradients.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "composites/products.h"
#include "engine/registry.h"

namespace liger::torch_bindings {

Pair gate_and_up(const CompositeCall& in, const at::Tensor& x) {
  const at::Tensor up_weight = in.tensor("up_weight");
  const at::Tensor gate = product_of(x, in.tensor("gate_weight").t());
  return Pair::given(gate, up_weight.defined() ? product_of(x, up_weight.t()) : at::Tensor());
}

at::Tensor gated(const CompositeCall& in, const Pair& pair) {
  static const Op &swiglu = op_named("swiglu"), &geglu = op_named("geglu");
  const int64_t activation = in["activation"].toInt();
  if (activation == 0)
    return in.run(swiglu, {{"gate", pair.gate}, {"up", pair.up}, {"limit", 0.0}})[0];
  const int64_t approximate = activation - 1;  // the choices of geglu are in the same order
  return in.run(geglu, {{"gate", pair.gate}, {"up", pair.up}, {"approximate", approximate}})[0];
}

MlpGradients::MlpGradients(const CompositeCall& in, at::ScalarType sum_type)
    : in_(in), sum_type_(sum_type), packed_(!in.has("up_weight")) {
  const auto output_mask = in["output_mask"].toBoolList();
  for (int i = 0; i < 4; ++i) wants_grad_[i] = output_mask[i];
  wants_grad_[2] = wants_grad_[2] && !packed_;
}

void MlpGradients::add(const at::Tensor& dy, const at::Tensor& x, Pair pair, at::Tensor& dx,
                       bool in_place) {
  const bool of_pair = wants_grad_[0] || wants_grad_[1] || wants_grad_[2];
  Pair gradients;
  at::Tensor middle;
  if (of_pair) {
    gradients = in_place ? pair : pair.like_it();
    middle = through_middle(dy, pair, gradients);
  } else if (wants_grad_[3]) {
    middle = gated(in_, pair);
  }
  pair = {};
  if (wants_grad_[3]) add_to(ddown_, dy.t(), middle);
  middle.reset();
  if (wants_grad_[1]) add_to(dgate_, (packed_ ? gradients.both : gradients.gate).t(), x);
  if (wants_grad_[2]) add_to(dup_, gradients.up.t(), x);
  if (wants_grad_[0]) write_dx(dx, gradients);
}

Tensors MlpGradients::results(const at::Tensor& dx) {
  const at::Tensor x = in_.tensor("x");
  const auto result = [&](bool wanted, at::Tensor& sum) {
    if (!wanted) return at::empty({0}, x.options());
    // One after the other: of a wide sum no more than one has two forms.
    return std::exchange(sum, {}).to(x.scalar_type());
  };
  return {wants_grad_[0] ? with_leading_dims_of(x, dx) : at::empty({0}, x.options()),
          result(wants_grad_[1], dgate_), result(wants_grad_[2], dup_),
          result(wants_grad_[3], ddown_)};
}

void MlpGradients::add_to(at::Tensor& sum, const at::Tensor& left, const at::Tensor& right) {
  const bool is_first = !sum.defined();
  if (is_first) sum = at::empty({left.size(0), right.size(1)}, right.options().dtype(sum_type_));
  add_product(sum, left, right, is_first);
}

// Fills the gradients of gate and up; returns their product if it is wanted.
at::Tensor MlpGradients::through_middle(const at::Tensor& dy, const Pair& pair,
                                        const Pair& gradients) {
  static const Op& middle_op = op_named("gated_mlp_middle_");
  at::Tensor middle = product_of(dy, in_.tensor("down_weight"));
  in_.run(middle_op, {{"product", middle},
                      {"gate", pair.gate},
                      {"up", pair.up},
                      {"dgate", gradients.gate},
                      {"dup", gradients.up},
                      {"want_product", wants_grad_[3]}});
  return middle;
}

void MlpGradients::write_dx(at::Tensor& dx, const Pair& gradients) const {
  const at::Tensor gate_weight = in_.tensor("gate_weight");
  const at::Tensor& of_gate = packed_ ? gradients.both : gradients.gate;
  if (!dx.defined()) dx = at::empty({of_gate.size(0), gate_weight.size(1)}, of_gate.options());
  at::mm_out(dx, of_gate, gate_weight);
  if (!packed_) at::addmm_out(dx, dx, gradients.up, in_.tensor("up_weight"));
}

}  // namespace liger::torch_bindings
