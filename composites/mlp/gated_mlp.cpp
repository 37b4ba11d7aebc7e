// A gated MLP as one node of the graph: products by ATen, and between them the kernels of the gated
// activations. The forward keeps gate and up; the backward makes their product anew where the
// gradient of the last weight needs it.
#include "composites/mlp/mlp_gradients.h"
#include "composites/products.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

Tensors forward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const at::Tensor x = in.tensor("x");
  const Pair pair = gate_and_up(in, by_rows(x));
  const at::Tensor y = product_of(gated(in, pair), in.tensor("down_weight").t());
  const bool packed = pair.both.defined();
  return {with_leading_dims_of(x, y), with_leading_dims_of(x, packed ? pair.both : pair.gate),
          packed ? at::empty({0}, x.options()) : with_leading_dims_of(x, pair.up)};
}

Tensors backward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const bool in_place = op.inputs[op.input_index("gate")].written;
  const at::Tensor x = by_rows(in.tensor("x"));
  const at::Tensor up = in.tensor("up");
  MlpGradients gradients(in, x.scalar_type());
  at::Tensor dx;
  gradients.add(by_rows(in.tensor("dy")), x,
                Pair::given(by_rows(in.tensor("gate")), up.defined() ? by_rows(up) : up), dx,
                in_place);
  return gradients.results(dx);
}

const RegisterComposite forward_composite("gated_mlp", forward);
const RegisterComposite backward_composite("gated_mlp_backward", backward);
const RegisterComposite last_backward_composite("gated_mlp_backward_", backward);

}  // namespace
}  // namespace liger::torch_bindings
