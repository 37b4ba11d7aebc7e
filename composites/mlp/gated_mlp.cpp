// A gated MLP as one node of the graph: products by ATen, and between them the kernels of the gated
// activations. The forward keeps gate and up; the backward makes their product anew where the
// gradient of the last weight needs it.
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "engine/registry.h"
#include "torch_bindings/composite_call.h"

namespace liger::torch_bindings {
namespace {

// As a matrix; the leading dims are joined.
at::Tensor by_rows(const at::Tensor& tensor) {
  const auto leading = tensor.sizes().slice(0, tensor.dim() - 1);
  return tensor.reshape({c10::multiply_integers(leading), tensor.size(-1)});
}

at::Tensor with_leading_dims_of(const at::Tensor& x, const at::Tensor& matrix) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = matrix.size(1);
  return matrix.view(sizes);
}

// Into memory of its own: under autocast, which a backward may be called in, `mm` would cast.
at::Tensor product_of(const at::Tensor& left, const at::Tensor& right) {
  at::Tensor result = at::empty({left.size(0), right.size(1)}, left.options());
  at::mm_out(result, left, right);
  return result;
}

// Two matrices of one width, which may be the halves of one in memory.
struct Pair {
  at::Tensor gate, up;
  at::Tensor both;  // undefined if they are apart

  static Pair halves_of(const at::Tensor& both) {
    const int64_t width = both.size(1) / 2;
    return {both.narrow(1, 0, width), both.narrow(1, width, width), both};
  }
  static Pair given(const at::Tensor& gate, const at::Tensor& up) {
    return up.defined() ? Pair{by_rows(gate), by_rows(up), {}} : halves_of(by_rows(gate));
  }
  Pair like_it() const {
    if (both.defined()) return halves_of(at::empty(both.sizes(), both.options()));
    return {at::empty(gate.sizes(), gate.options()), at::empty(up.sizes(), up.options()), {}};
  }
};

// act(gate) * up
at::Tensor gated(const CompositeCall& in, const Pair& pair) {
  static const Op &swiglu = op_named("swiglu"), &geglu = op_named("geglu");
  const int64_t activation = in["activation"].toInt();
  if (activation == 0) return in.run(swiglu, {{"gate", pair.gate}, {"up", pair.up}})[0];
  const int64_t approximate = activation == 1 ? 0 : 1;
  return in.run(geglu, {{"gate", pair.gate}, {"up", pair.up}, {"approximate", approximate}})[0];
}

Tensors forward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const at::Tensor x = in.tensor("x");
  const at::Tensor rows = by_rows(x);
  const at::Tensor up_weight = in.tensor("up_weight");
  const at::Tensor gate = product_of(rows, in.tensor("gate_weight").t());
  const at::Tensor up = up_weight.defined() ? product_of(rows, up_weight.t()) : at::Tensor();
  const at::Tensor middle = gated(in, Pair::given(gate, up));
  const at::Tensor y = product_of(middle, in.tensor("down_weight").t());
  return {with_leading_dims_of(x, y), with_leading_dims_of(x, gate),
          up.defined() ? with_leading_dims_of(x, up) : at::empty({0}, x.options())};
}

// The gradients of one backward, made in the order in which buffers can be freed.
class Gradients {
 public:
  // `in_place`: those of gate and up overwrite them.
  Gradients(const CompositeCall& in, bool in_place)
      : in_(in),
        in_place_(in_place),
        dy_(by_rows(in.tensor("dy"))),
        x_(by_rows(in.tensor("x"))),
        pair_(Pair::given(in.tensor("gate"), in.tensor("up"))) {
    const auto output_mask = in["output_mask"].toBoolList();
    for (int i = 0; i < 4; ++i) wants_grad_[i] = output_mask[i];
    wants_grad_[2] = wants_grad_[2] && !pair_.both.defined();
  }

  Tensors run() {
    const bool of_pair = wants_grad_[0] || wants_grad_[1] || wants_grad_[2];
    at::Tensor middle = of_pair ? through_middle() : product();
    const at::Tensor ddown = wants_grad_[3] ? product_of(dy_.t(), middle) : nothing();
    middle.reset();
    const at::Tensor dgate =
        wants_grad_[1] ? product_of((packed() ? gradients_.both : gradients_.gate).t(), x_)
                       : nothing();
    const at::Tensor dup = wants_grad_[2] ? product_of(gradients_.up.t(), x_) : nothing();
    return {wants_grad_[0] ? with_leading_dims_of(in_.tensor("x"), dx()) : nothing(), dgate, dup,
            ddown};
  }

 private:
  bool packed() const { return pair_.both.defined(); }
  at::Tensor nothing() const { return at::empty({0}, x_.options()); }
  at::Tensor product() const { return wants_grad_[3] ? gated(in_, pair_) : at::Tensor(); }

  // Fills the gradients of gate and up; returns their product if it is wanted.
  at::Tensor through_middle() {
    static const Op& middle_op = op_named("gated_mlp_middle_");
    at::Tensor middle = product_of(dy_, in_.tensor("down_weight"));
    gradients_ = in_place_ ? pair_ : pair_.like_it();
    in_.run(middle_op, {{"product", middle},
                        {"gate", pair_.gate},
                        {"up", pair_.up},
                        {"dgate", gradients_.gate},
                        {"dup", gradients_.up},
                        {"want_product", wants_grad_[3]}});
    return middle;
  }

  at::Tensor dx() const {
    const at::Tensor gate_weight = in_.tensor("gate_weight");
    if (packed()) return product_of(gradients_.both, gate_weight);
    at::Tensor dx = product_of(gradients_.gate, gate_weight);
    at::addmm_out(dx, dx, gradients_.up, in_.tensor("up_weight"));
    return dx;
  }

  const CompositeCall& in_;
  const bool in_place_;
  at::Tensor dy_, x_;
  Pair pair_, gradients_;
  bool wants_grad_[4];
};

Tensors backward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  return Gradients(in, op.inputs[op.input_index("gate")].written).run();
}

const RegisterComposite forward_composite("gated_mlp", forward);
const RegisterComposite backward_composite("gated_mlp_backward", backward);
const RegisterComposite last_backward_composite("gated_mlp_backward_", backward);

}  // namespace
}  // namespace liger::torch_bindings
