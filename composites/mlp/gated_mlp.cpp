// A gated MLP as one node of the graph: products by ATen, and between them the kernels of the gated
// activations. The forward keeps gate and up; the backward makes their product anew where the
// gradient of the last weight needs it.
#include "composites/mlp/mlp_gradients.h"
#include "composites/products.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

at::Tensor down(const CompositeCall& in, const Pair& pair) {
  const at::Tensor y = product_of(gated(in, pair), in.tensor("down_weight").t());
  return with_leading_dims_of(in.tensor("x"), y);
}

// As they are kept: gate and up, or both and nothing.
Tensors kept(const CompositeCall& in, const Pair& pair) {
  const at::Tensor x = in.tensor("x");
  if (pair.both.defined()) return {with_leading_dims_of(x, pair.both), at::empty({0}, x.options())};
  return {with_leading_dims_of(x, pair.gate), with_leading_dims_of(x, pair.up)};
}

Pair pair_kept(const CompositeCall& in) {
  const at::Tensor gate = by_rows(in.tensor("gate"));
  return Pair::given(gate, in.has("up_weight") ? by_rows(in.tensor("up")) : at::Tensor());
}

Tensors forward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const Pair pair = gate_and_up(in, by_rows(in.tensor("x")));
  Tensors outputs = kept(in, pair);
  outputs.insert(outputs.begin(), down(in, pair));
  return outputs;
}

Tensors kept_part(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  return kept(in, gate_and_up(in, by_rows(in.tensor("x"))));
}

Tensors finished_part(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  return {down(in, pair_kept(in))};
}

Tensors backward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const bool in_place = op.inputs[op.input_index("gate")].written;
  const at::Tensor x = by_rows(in.tensor("x"));
  MlpGradients gradients(in, x.scalar_type());
  at::Tensor dx;
  gradients.add(by_rows(in.tensor("dy")), x, pair_kept(in), dx, in_place);
  return gradients.results(dx);
}

const RegisterComposite forward_composite("gated_mlp", forward);
const RegisterComposite kept_composite("gated_mlp_kept", kept_part);
const RegisterComposite finished_composite("gated_mlp_finished", finished_part);
const RegisterComposite backward_composite("gated_mlp_backward", backward);
const RegisterComposite last_backward_composite("gated_mlp_backward_", backward);

}  // namespace
}  // namespace liger::torch_bindings
