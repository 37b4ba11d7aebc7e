// Distillation of a linear layer from a teacher's. Of a chunk of tokens both make their logits; one
// launch has both rows of a token, and leaves the gradient in the student's.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include "composites/linear_loss/kept_tokens.h"
#include "composites/linear_loss/log_prob_product.h"
#include "engine/registry.h"
#include "ops/linear_loss/distillation.h"
#include "ops/loss/log_probs.h"

namespace liger::torch_bindings {
namespace {

using at::Tensor;

class Distillation final : public ChunkLoss {
 public:
  Distillation(const CompositeCall& in, const LinearLayer& layer, const LinearLayer& teacher,
               const Labels& labels, const Tensor& share, int64_t chunk_tokens, bool with_gradient)
      : in_(in),
        layer_(layer),
        teacher_(teacher),
        labels_(labels),
        share_(share),
        with_gradient_(with_gradient),
        teacher_logits_(at::empty({chunk_tokens, teacher.weight.size(0)}, teacher.input.options())),
        soft_(at::empty({teacher.input.size(0)}, share.options())) {
    if (in["weight_hard_loss"].toDouble() != 0.0 || in["want_hard_loss"].toBool())
      hard_ = at::empty_like(soft_);
    const bool softmaxes = static_cast<Distance>(in["divergence"].toInt()) != Distance::cosine;
    if (softmaxes && LogProbProduct::takes(in, layer, chunk_tokens) &&
        LogProbProduct::takes(in, teacher, chunk_tokens)) {
      tiles_ = TileSums(layer, chunk_tokens, false);
      statistics_ = at::empty({2, chunk_tokens, log_prob_statistics}, share.options());
    }
  }

  bool wants_logits() const override { return !statistics_.defined(); }

  void take_logits(const Chunk& chunk, const Tensor& logits, bool spare) override {
    take(chunk, logits, spare);
    // Its memory serves the weight's gradient in the weight's dtype.
    if (chunk.first + chunk.count == chunk.batch.count) teacher_logits_.reset();
  }

  // When all chunks were there.
  Tensor soft_loss() const { return soft_.sum() * share_; }
  Tensor hard_loss() const {
    return hard_.defined() ? hard_.sum() * share_ : at::zeros_like(share_);
  }

 private:
  void take(const Chunk& chunk, const Tensor& logits, bool spare) const {
    Tensor of_teacher = rows_of(teacher_logits_, 0, chunk.tokens());
    const Tensor x = chunk.of_batch(teacher_.input, 0);
    if (!statistics_.defined()) {
      logits_into(of_teacher, teacher_, x);
      return rows(chunk, logits, of_teacher, {}, {}, spare);
    }
    const Tensor of_student = rows_of(statistics_[0], 0, chunk.tokens());
    const Tensor teachers = rows_of(statistics_[1], 0, chunk.tokens());
    logits_and_statistics(in_, layer_, chunk.of_batch(layer_.input, 0), tiles_, logits, of_student);
    logits_and_statistics(in_, teacher_, x, tiles_, of_teacher, teachers);
    rows(chunk, logits, of_teacher, of_student, teachers, spare);
    // Another batch may have too few tokens for that product.
    if (in_.records() && chunk.first == 0) rows(chunk, logits, of_teacher, {}, {}, true);
  }

  void rows(const Chunk& chunk, const Tensor& logits, const Tensor& of_teacher,
            const Tensor& statistics, const Tensor& teacher_statistics, bool spare) const {
    static const Op& chunk_op = op_named("distillation_chunk_");
    const auto part = [&](const Tensor& whole) { return chunk.of_batch(whole, 0); };
    in_.run(chunk_op,
            {{"logits", logits},
             {"teacher", of_teacher},
             {"statistics", statistics},
             {"teacher_statistics", teacher_statistics},
             {"target", part(labels_.ids)},
             {"share", share_},
             {"soft_loss", part(soft_)},
             {"hard_loss", part(hard_)},
             {"places", labels_.places},
             {"first_row", chunk.first},
             {"with_gradient", with_gradient_}},
            spare);
  }

  const CompositeCall& in_;
  const LinearLayer& layer_;
  const LinearLayer& teacher_;
  const Labels& labels_;
  const Tensor& share_;
  const bool with_gradient_;
  Tensor teacher_logits_;  // of a chunk
  const Tensor soft_;
  Tensor hard_;
  TileSums tiles_;
  Tensor statistics_;  // of the chunk's rows; undefined: logits are made by a library's product
};

// A token has two rows of logits at once.
LossDivision division_of(const CompositeCall& in, const LinearLayer& layer,
                         const WantedGradients& wanted) {
  LinearLossSizes sizes = layer.sizes();
  sizes.logits = 2;
  return divide(in.place(), sizes, {.count = layer.input.size(0)},
                {.gradient = wanted.any(), .weight_gradient = wanted.weight},
                in["chunk_tokens"].toInt(), static_cast<Accumulate>(in["accumulate"].toInt()));
}

Tensors fused_linear_distillation(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const Tensor target = in.has("target") ? in.tensor("target").contiguous() : Tensor();
  const int64_t tokens = in.tensor("input").size(0);
  const KeptTokens kept = KeptTokens::of_optional(in, target, tokens);
  const LinearLayer layer = kept.layer(layer_of(in));
  const LinearLayer teacher =
      kept.layer({in.tensor("teacher_input").contiguous(), in.tensor("teacher_weight").contiguous(),
                  in.tensor("teacher_bias")});
  const Labels labels = kept.labels(in, target);
  const auto options = layer.input.options();
  const auto exact = exact_options(options);
  const Tensor share = share_of_token(in, target, tokens, exact);
  const WantedGradients wanted = wanted_of(in, "with_gradient");
  const LossDivision division = division_of(in, layer, wanted);
  Distillation loss(in, layer, teacher, labels, share, division.chunk_tokens(), wanted.any());
  const LayerGradients made = run_by_chunks(in, layer, labels, division, wanted, loss);
  const Tensor soft = kept.checked(loss.soft_loss()), hard = kept.checked(loss.hard_loss());
  Tensor sum = soft * in["weight_soft_loss"].toDouble();
  if (const double weight = in["weight_hard_loss"].toDouble(); weight != 0.0)
    sum = sum + hard * weight;
  return {sum,
          soft,
          hard,
          or_empty(kept.spread(made.input, 0), options),
          or_empty(made.weight, options),
          or_empty(made.bias, options)};
}

const RegisterComposite registered("fused_linear_distillation", fused_linear_distillation);

}  // namespace
}  // namespace liger::torch_bindings
