// Multi-token attention as one node of the graph: probabilities by our kernels, the convolution by
// ATen, and what lies beyond the diagonal cleared where the convolution has written it.
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>

#include <array>
#include <limits>

#include "engine/registry.h"
#include "torch_bindings/composite_call.h"

namespace liger::torch_bindings {
namespace {

using Two = std::array<int64_t, 2>;

Two both(const CompositeCall& in, std::string_view option) {
  const int64_t value = in[option].toInt();
  return {value, value};
}

at::Tensor probabilities(const CompositeCall& in, const at::Tensor& scores) {
  static const Op &softmax = op_named("causal_softmax"), &triangle = op_named("lower_triangle");
  if (!in["sparse"].toBool()) return in.run(softmax, {{"x", scores}})[0];
  static const Op& sparsemax = op_named("sparsemax");
  const double nothing = -std::numeric_limits<double>::infinity();
  return in.run(sparsemax, {{"x", in.run(triangle, {{"x", scores}, {"fill", nothing}})[0]}})[0];
}

Tensors forward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  static const Op& clear = op_named("clear_upper_triangle_");
  const CompositeCall in(op, values);
  const at::Tensor made = probabilities(in, in.tensor("scores"));
  const at::Tensor out = at::convolution(
      made, in.tensor("weight"), in.has("bias") ? std::optional(in.tensor("bias")) : std::nullopt,
      both(in, "stride"), both(in, "padding"), both(in, "dilation"), false, Two{0, 0},
      in["groups"].toInt());
  at::Tensor rows = out.contiguous();
  in.run(clear, {{"x", rows}});
  return {rows, made};
}

at::Tensor through_sparsemax(const CompositeCall& in, const at::Tensor& dy, const at::Tensor& y) {
  static const Op& sparsemax_backward = op_named("sparsemax_backward");
  const c10::List<bool> wanted({true});
  return in.run(sparsemax_backward, {{"dy", dy}, {"y", y}, {"output_mask", wanted}})[0];
}

Tensors backward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  static const Op &triangle = op_named("lower_triangle"),
                  &of_softmax = op_named("causal_softmax_backward");
  const CompositeCall in(op, values);
  const at::Tensor made = in.tensor("probabilities");
  const auto mask = in["output_mask"].toBoolList();
  const std::array<bool, 3> wanted = {mask[0], mask[1], mask[2] && in.has("bias")};
  const std::array<int64_t, 1> channels = {in.tensor("weight").size(0)};
  const at::Tensor dout = in.run(triangle, {{"x", in.tensor("dout")}, {"fill", 0.0}})[0];
  auto [dmade, dweight, dbias] = at::convolution_backward(
      dout, made, in.tensor("weight"), at::OptionalIntArrayRef(channels), both(in, "stride"),
      both(in, "padding"), both(in, "dilation"), false, Two{0, 0}, in["groups"].toInt(), wanted);
  const at::Tensor nothing = at::empty({0}, made.options());
  at::Tensor dscores = nothing;
  if (wanted[0]) {
    const at::Tensor upstream = dmade.contiguous();
    dscores = in["sparse"].toBool() ? through_sparsemax(in, upstream, made)
                                    : in.run(of_softmax, {{"dy", upstream}, {"y", made}})[0];
  }
  return {dscores, wanted[1] ? dweight.contiguous() : nothing, wanted[2] ? dbias : nothing};
}

const RegisterComposite forward_composite("multi_token_attention", forward);
const RegisterComposite backward_composite("multi_token_attention_backward", backward);

}  // namespace
}  // namespace liger::torch_bindings
