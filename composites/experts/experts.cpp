// Experts as one node of the graph. Pairs of a token and one of its experts are sorted by expert;
// products of groups of rows, and between them our kernels. Kept for the backward are the input and
// gate and up; pairs are sorted anew, rows are gathered anew, the product of gate and up is made
// anew, and the routing weights' gradient is found without the down projection's output: it is
// (dy @ down) . act(gate, up).
#include <ATen/ops/empty.h>

#include "composites/experts/grouped_products.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

constexpr int64_t clamped_activation = 4;

int64_t experts_of(const CompositeCall& in) { return in.tensor("gate_up_weight").size(0); }

at::Tensor gated(const CompositeCall& in, const at::Tensor& gate_up) {
  static const Op &packed = op_named("packed_glu"), &clamped = op_named("clamped_swiglu");
  if (in["activation"].toInt() == clamped_activation)
    return in.run(clamped, {{"gate_up", gate_up}})[0];
  return in.run(packed,
                {{"gate_up", gate_up}, {"gate_multiplier", 1.0}, {"down_multiplier", 1.0}})[0];
}

// Rows of pairs, added up for each token.
at::Tensor combined(const CompositeCall& in, const at::Tensor& rows, const at::Tensor& places,
                    const at::Tensor& weights, const at::Tensor& bias) {
  static const Op& combine = op_named("combine_experts");
  return in.run(combine, {{"x", rows},
                          {"places", places},
                          {"indices", in.tensor("indices")},
                          {"weights", weights},
                          {"bias", bias},
                          {"num_experts", experts_of(in)}})[0];
}

// What group_by_expert gives.
struct Groups {
  at::Tensor order, tokens, places, ends;

  explicit Groups(const CompositeCall& in) {
    static const Op& group = op_named("group_by_expert");
    const Tensors made =
        in.run(group, {{"indices", in.tensor("indices")}, {"num_experts", experts_of(in)}});
    order = made[0], tokens = made[1], places = made[2], ends = made[3];
  }
};

Tensors forward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  static const Op& add_bias = op_named("add_expert_bias_");
  const CompositeCall in(op, values);
  const Groups groups(in);
  const GroupedProducts products(in, groups.tokens, groups.ends, in["transposed"].toBool());
  const at::Tensor gate_up =
      products.outputs(products.of_tokens(in.tensor("x")), in.tensor("gate_up_weight"));
  if (in.has("gate_up_bias"))
    in.run(add_bias, {{"x", gate_up},
                      {"bias", in.tensor("gate_up_bias")},
                      {"indices", in.tensor("indices")},
                      {"order", groups.order},
                      {"num_experts", experts_of(in)}});
  const at::Tensor down = products.outputs({gated(in, gate_up)}, in.tensor("down_weight"));
  return {combined(in, down, groups.places, in.tensor("weights"), in.tensor("down_bias")), gate_up};
}

class Backward {
 public:
  Backward(const Op& op, c10::ArrayRef<c10::IValue> values)
      : in_(op, values),
        in_place_(op.inputs[op.input_index("gate_up")].written),
        groups_(in_),
        products_(in_, groups_.tokens, groups_.ends, in_["transposed"].toBool()) {
    const auto output_mask = in_["output_mask"].toBoolList();
    for (int i = 0; i < 6; ++i) wanted_[i] = output_mask[i];
    wanted_[4] = wanted_[4] && in_.has("gate_up_bias");
    wanted_[5] = wanted_[5] && in_.has("down_bias");
  }

  Tensors gradients() {
    const at::Tensor x = in_.tensor("x");
    const at::Tensor dgate_up = through_middle();
    at::Tensor dx, dgate_up_weight, dgate_up_bias, ddown_bias;
    // Its rows are given back before the largest gradient is made.
    if (wanted_[0]) {
      const at::Tensor rows = products_.inputs({dgate_up}, in_.tensor("gate_up_weight"));
      dx = combined(in_, rows, groups_.places, {}, {});
    }
    if (wanted_[2]) dgate_up_weight = products_.weight_gradient({dgate_up}, products_.of_tokens(x));
    if (wanted_[4]) dgate_up_bias = summed(dgate_up, {});
    if (wanted_[5]) ddown_bias = summed(in_.tensor("dy"), in_.tensor("weights"));
    Tensors results = {dx, dweights_, dgate_up_weight, ddown_weight_, dgate_up_bias, ddown_bias};
    for (size_t i = 0; i < results.size(); ++i) {
      const auto options = i == 1 ? in_.tensor("weights").options() : x.options();
      if (!results[i].defined()) results[i] = at::empty({0}, options);
    }
    return results;
  }

 private:
  // The gradient of gate and up, if anything needs it; on the way those of the down projection and
  // the routing weights.
  at::Tensor through_middle() {
    static const Op& middle = op_named("experts_middle_");
    const bool of_gate_up = wanted_[0] || wanted_[2] || wanted_[4];
    if (!of_gate_up && !wanted_[1] && !wanted_[3]) return {};
    const at::Tensor gate_up = in_.tensor("gate_up"), weights = in_.tensor("weights");
    const GroupedRows dy = products_.of_tokens(in_.tensor("dy"));
    const at::Tensor product = products_.inputs(dy, in_.tensor("down_weight"));
    at::Tensor dgate_up;
    if (of_gate_up) dgate_up = in_place_ ? gate_up : at::empty(gate_up.sizes(), gate_up.options());
    if (wanted_[1]) dweights_ = at::empty(weights.sizes(), weights.options());
    in_.run(middle, {{"product", product},
                     {"gate_up", gate_up},
                     {"dgate_up", dgate_up},
                     {"weights", weights},
                     {"dweights", dweights_},
                     {"indices", in_.tensor("indices")},
                     {"order", groups_.order},
                     {"dy", in_.tensor("dy")},
                     {"bias", wanted_[1] ? in_.tensor("down_bias") : at::Tensor()},
                     {"num_experts", experts_of(in_)},
                     {"want_product", wanted_[3]}});
    if (wanted_[3]) ddown_weight_ = products_.weight_gradient(dy, {product});
    return dgate_up;
  }

  // The sums of each expert's rows.
  at::Tensor summed(const at::Tensor& rows, const at::Tensor& weights) const {
    static const Op& sum = op_named("sum_by_expert");
    return in_.run(
        sum,
        {{"x", rows}, {"weights", weights}, {"order", groups_.order}, {"ends", groups_.ends}})[0];
  }

  const CompositeCall in_;
  const bool in_place_;
  const Groups groups_;
  const GroupedProducts products_;
  bool wanted_[6];
  at::Tensor dweights_, ddown_weight_;
};

Tensors backward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  return Backward(op, values).gradients();
}

const RegisterComposite forward_composite("experts", forward);
const RegisterComposite backward_composite("experts_backward", backward);
const RegisterComposite last_backward_composite("experts_backward_", backward);

}  // namespace
}  // namespace liger::torch_bindings
