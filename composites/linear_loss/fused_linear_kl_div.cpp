// Kullback-Leibler divergence of a linear layer from probabilities that are given. Of a chunk of
// tokens one launch has both rows of a token, and leaves the gradient in the logits.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include "composites/linear_loss/kept_tokens.h"
#include "engine/registry.h"
#include "ops/linear_loss/fused_linear_kl_div.h"

namespace liger::torch_bindings {
namespace {

using at::Tensor;

// Of one token in the loss.
Tensor share_of(const CompositeCall& in, const Tensor& target, const LinearLayer& layer) {
  const auto exact = exact_options(layer.input.options());
  const auto reduction = static_cast<KlDivReduction>(in["reduction"].toInt());
  if (reduction == KlDivReduction::sum) return at::full({}, 1.0, exact);
  const double classes =
      reduction == KlDivReduction::mean ? static_cast<double>(layer.weight.size(0)) : 1.0;
  return share_of_token(in, target, layer.input.size(0), exact, classes);
}

class KlDiv final : public ChunkLoss {
 public:
  KlDiv(const CompositeCall& in, const Labels& labels, const Tensor& given, const Tensor& share,
        bool with_gradient)
      : in_(in),
        labels_(labels),
        given_(given),
        with_gradient_(with_gradient),
        share_(share),
        loss_(at::empty({given.size(0)}, share.options())) {}

  void take_logits(const Chunk& chunk, const Tensor& logits, bool spare) override {
    static const Op& chunk_op = op_named("linear_kl_div_chunk_");
    const auto part = [&](const Tensor& whole) { return chunk.of_batch(whole, 0); };
    in_.run(chunk_op,
            {{"logits", logits},
             {"probabilities", part(given_).to(logits.scalar_type())},
             {"target", part(labels_.ids)},
             {"share", share_},
             {"loss", part(loss_)},
             {"places", labels_.places},
             {"first_row", chunk.first},
             {"with_gradient", with_gradient_}},
            spare);
  }

  // When all chunks were there.
  Tensor loss() const { return loss_.sum() * share_; }

 private:
  const CompositeCall& in_;
  const Labels& labels_;
  const Tensor& given_;
  const bool with_gradient_;
  const Tensor& share_;
  const Tensor loss_;
};

Tensors fused_linear_kl_div(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const LinearLayer whole = layer_of(in);
  const Tensor target = in.has("target") ? in.tensor("target").contiguous() : Tensor();
  const KeptTokens kept = KeptTokens::of_optional(in, target, whole.input.size(0));
  const LinearLayer layer = kept.layer(whole);
  const Labels labels = kept.labels(in, target);
  const Tensor given = kept.rows(in.tensor("probabilities")), share = share_of(in, target, whole);
  const WantedGradients wanted = wanted_of(in, "with_gradient");
  const LossDivision division =
      divide(in.place(), layer.sizes(), {.count = layer.input.size(0)},
             {.gradient = wanted.any(), .weight_gradient = wanted.weight},
             in["chunk_tokens"].toInt(), static_cast<Accumulate>(in["accumulate"].toInt()));
  KlDiv loss(in, labels, given, share, wanted.any());
  const LayerGradients made = run_by_chunks(in, layer, labels, division, wanted, loss);
  const auto options = layer.input.options();
  return {kept.checked(loss.loss()), or_empty(kept.spread(made.input, 0), options),
          or_empty(made.weight, options), or_empty(made.bias, options)};
}

const RegisterComposite registered("fused_linear_kl_div", fused_linear_kl_div);

}  // namespace
}  // namespace liger::torch_bindings
