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

// Whether the library convolves faster with the channels last. The layout is then changed by our
// kernels, which leave out what lies beyond the diagonal.
bool channels_last(const CompositeCall& in) {
  const at::Tensor weight = in.tensor("weight");
  return weight.element_size() == 2 && weight.size(1) % 8 == 0 &&
         weight.size(0) / in["groups"].toInt() % 8 == 0;
}

// [batch, channels, N, N] of memory in the order of [batch, N, N, channels].
at::Tensor to_channels_last(const CompositeCall& in, const at::Tensor& squares) {
  static const Op& turn = op_named("triangle_to_channels_last");
  return in.run(turn, {{"x", squares}})[0].permute({0, 3, 1, 2});
}

// [batch, N, N, channels], contiguous.
at::Tensor in_memory(const at::Tensor& squares) {
  return squares.contiguous(at::MemoryFormat::ChannelsLast).permute({0, 2, 3, 1});
}

// Back from there.
at::Tensor from_channels_last(const CompositeCall& in, const at::Tensor& squares,
                              const at::Tensor& bias) {
  static const Op& turn = op_named("triangle_from_channels_last");
  return in.run(turn, {{"x", in_memory(squares)}, {"bias", bias}})[0];
}

at::Tensor convolved(const CompositeCall& in, const at::Tensor& x, const at::Tensor& weight,
                     const at::Tensor& bias) {
  return at::convolution(x, weight, bias.defined() ? std::optional(bias) : std::nullopt,
                         both(in, "stride"), both(in, "padding"), both(in, "dilation"), false,
                         Two{0, 0}, in["groups"].toInt());
}

Tensors forward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  static const Op& clear = op_named("clear_upper_triangle_");
  const CompositeCall in(op, values);
  const at::Tensor made = probabilities(in, in.tensor("scores"));
  const at::Tensor weight = in.tensor("weight"), bias = in.tensor("bias");
  if (channels_last(in)) {
    // The library would add the bias in a pass of its own.
    const at::Tensor out =
        convolved(in, to_channels_last(in, made), weight.contiguous(at::MemoryFormat::ChannelsLast),
                  at::Tensor());
    return {from_channels_last(in, out, bias), made};
  }
  at::Tensor rows = convolved(in, made, weight, bias).contiguous();
  in.run(clear, {{"x", rows}});
  return {rows, made};
}

at::Tensor through_sparsemax(const CompositeCall& in, const at::Tensor& dy, const at::Tensor& y) {
  static const Op& sparsemax_backward = op_named("sparsemax_backward");
  const c10::List<bool> wanted({true});
  return in.run(sparsemax_backward, {{"dy", dy}, {"y", y}, {"output_mask", wanted}})[0];
}

at::Tensor through_softmax(const CompositeCall& in, const at::Tensor& dy, const at::Tensor& y) {
  static const Op &rows = op_named("causal_softmax_backward"),
                  &turning = op_named("causal_softmax_backward_from_channels_last");
  if (!channels_last(in)) return in.run(rows, {{"dy", dy.contiguous()}, {"y", y}})[0];
  return in.run(turning, {{"dy", in_memory(dy)}, {"y", in_memory(y)}})[0];
}

Tensors backward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  static const Op& triangle = op_named("lower_triangle");
  const CompositeCall in(op, values);
  const bool last = channels_last(in), sparse = in["sparse"].toBool();
  const at::Tensor saved = in.tensor("probabilities");
  const auto mask = in["output_mask"].toBoolList();
  const std::array<bool, 3> wanted = {mask[0], mask[1], mask[2] && in.has("bias")};
  const std::array<int64_t, 1> channels = {in.tensor("weight").size(0)};
  at::Tensor made = saved, weight = in.tensor("weight"), dout = in.tensor("dout");
  if (last) {
    made = to_channels_last(in, saved);
    weight = weight.contiguous(at::MemoryFormat::ChannelsLast);
    dout = to_channels_last(in, dout);
  } else {
    dout = in.run(triangle, {{"x", dout}, {"fill", 0.0}})[0];
  }
  auto [dmade, dweight, dbias] = at::convolution_backward(
      dout, made, weight, at::OptionalIntArrayRef(channels), both(in, "stride"),
      both(in, "padding"), both(in, "dilation"), false, Two{0, 0}, in["groups"].toInt(), wanted);
  const at::Tensor nothing = at::empty({0}, made.options());
  at::Tensor dscores = nothing;
  if (wanted[0] && sparse) {
    const at::Tensor dy = last ? from_channels_last(in, dmade, at::Tensor()) : dmade.contiguous();
    dscores = through_sparsemax(in, dy, saved);
  } else if (wanted[0]) {
    dscores = through_softmax(in, dmade, made);
  }
  return {dscores, wanted[1] ? dweight.contiguous() : nothing, wanted[2] ? dbias : nothing};
}

const RegisterComposite forward_composite("multi_token_attention", forward);
const RegisterComposite backward_composite("multi_token_attention_backward", backward);

}  // namespace
}  // namespace liger::torch_bindings
