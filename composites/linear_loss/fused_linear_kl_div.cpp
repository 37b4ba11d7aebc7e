// Kullback-Leibler divergence of a linear layer from probabilities that are given. Of a chunk of
// tokens one launch has both rows of a token, and leaves the gradient in the logits.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>

#include "composites/linear_loss/linear_loss.h"
#include "engine/registry.h"
#include "ops/linear_loss/fused_linear_kl_div.h"

namespace liger::torch_bindings {
namespace {

using at::Tensor;

// Of one token in the loss. Where none counts their losses are zeros.
Tensor share_of(const CompositeCall& in, const Tensor& target, const LinearLayer& layer) {
  const auto exact = exact_options(layer.input.options());
  const auto reduction = static_cast<KlDivReduction>(in["reduction"].toInt());
  if (reduction == KlDivReduction::sum) return at::full({}, 1.0, exact);
  const double classes =
      reduction == KlDivReduction::mean ? static_cast<double>(layer.weight.size(0)) : 1.0;
  const int64_t tokens = std::max<int64_t>(layer.input.size(0), 1);
  if (!target.defined()) return at::full({}, 1.0 / (static_cast<double>(tokens) * classes), exact);
  const Tensor counts = target.ne(in["ignore_index"].toInt()).sum().clamp_min(1);
  return (counts.to(exact.dtype().toScalarType()) * classes).reciprocal();
}

class KlDiv final : public ChunkLoss {
 public:
  KlDiv(const CompositeCall& in, const LinearLayer& layer, const Tensor& target, bool with_gradient)
      : in_(in),
        target_(target),
        given_(in.tensor("probabilities")),
        with_gradient_(with_gradient),
        share_(share_of(in, target, layer)),
        loss_(at::empty({layer.input.size(0)}, share_.options())) {}

  void take_logits(const Chunk& chunk, const Tensor& logits, bool spare) override {
    static const Op& chunk_op = op_named("linear_kl_div_chunk_");
    const auto part = [&](const Tensor& whole) { return chunk.of_batch(whole, 0); };
    in_.run(chunk_op,
            {{"logits", logits},
             {"probabilities", part(given_).to(logits.scalar_type())},
             {"target", part(target_)},
             {"share", share_},
             {"loss", part(loss_)},
             {"first_row", chunk.first},
             {"with_gradient", with_gradient_}},
            spare);
  }

  // When all chunks were there.
  Tensor loss() const { return loss_.sum() * share_; }

 private:
  const CompositeCall& in_;
  const Tensor& target_;
  const Tensor given_;
  const bool with_gradient_;
  const Tensor share_, loss_;
};

Tensors fused_linear_kl_div(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const LinearLayer layer = layer_of(in);
  const Tensor target = in.has("target") ? in.tensor("target").contiguous() : Tensor();
  const WantedGradients wanted = wanted_of(in, "with_gradient");
  const LossDivision division =
      divide(in.place(), layer.sizes(), {.count = layer.input.size(0)},
             {.gradient = wanted.any(), .weight_gradient = wanted.weight},
             in["chunk_tokens"].toInt(), static_cast<Accumulate>(in["accumulate"].toInt()));
  KlDiv loss(in, layer, target, wanted.any());
  const LayerGradients made = run_by_chunks(in, layer, {target, {}}, division, wanted, loss);
  Tensors outputs = {loss.loss()};
  append_gradients(outputs, made, layer.input);
  return outputs;
}

const RegisterComposite registered("fused_linear_kl_div", fused_linear_kl_div);

}  // namespace
}  // namespace liger::torch_bindings
