// Cross entropy of a linear layer without the whole logits: for each chunk of tokens, logits by a
// matrix product, loss and gradient in place by a kernel, then the products for the gradients.
#include <ATen/ops/empty.h>

#include "composites/linear_loss/cross_entropy.h"
#include "composites/linear_loss/kept_tokens.h"
#include "composites/linear_loss/scaled_exp.h"
#include "engine/registry.h"
#include "ops/loss/cross_entropy.h"

namespace liger::torch_bindings {
namespace {

// Whether a row is all that its loss is made of: no option asks for more than exponentials tell.
bool plain(const CompositeCall& in) {
  for (const char* tensor : {"bias", "ce_weight"}) {
    if (in.has(tensor)) return false;
  }
  for (const char* number : {"label_smoothing", "lse_square_scale", "softcap"}) {
    if (in[number].toDouble() != 0.0) return false;
  }
  for (const char* flag : {"exact", "token_scaling", "want_accuracy", "want_predicted"}) {
    if (in[flag].toBool()) return false;
  }
  return true;
}

// Loss and gradient of a row are one launch, so nothing comes late.
class CrossEntropy final : public ChunkLoss {
 public:
  CrossEntropy(const CompositeCall& in, const Labels& labels, const Wanted& wanted,
               const Results& results)
      : in_(in), labels_(labels), wanted_(wanted), results_(results) {}

  void take_logits(const Chunk& chunk, const at::Tensor& logits, bool spare) override {
    static const Op& chunk_op = op_named("cross_entropy_chunk_");
    const auto part = [&](const at::Tensor& whole) { return chunk.of_batch(whole, 0); };
    in_.run(chunk_op,
            {{"logits", logits},
             {"target", part(labels_.ids)},
             {"weight", in_["ce_weight"]},
             {"totals", wanted_.totals},
             {"grad_output", part(wanted_.grad_output)},
             {"loss", part(results_.row_loss)},
             {"z_loss", part(results_.row_z_loss)},
             {"predicted", part(results_.predicted)},
             {"places", labels_.places},
             {"first_row", chunk.first},
             {"with_gradient", wanted_.gradients.any()}},
            spare);
  }

  ExponentialLosses losses_of(const Chunk& chunk) override {
    return {chunk.of_batch(results_.row_loss, 0), chunk.of_batch(results_.row_z_loss, 0)};
  }

 private:
  const CompositeCall& in_;
  const Labels& labels_;
  const Wanted& wanted_;
  const Results& results_;
};

LossDivision division_of(const CompositeCall& in, const LinearLayer& layer, const Wanted& wanted) {
  const LossTraits traits{.plain = wanted.totals.defined() && ScaledExp::takes(layer) && plain(in),
                          .tiles = true,
                          .gradient = wanted.gradients.any(),
                          .weight_gradient = wanted.gradients.weight};
  return divide(in.place(), layer.sizes(), {.count = layer.input.size(0)}, traits,
                in["chunk_tokens"].toInt(), static_cast<Accumulate>(in["accumulate"].toInt()));
}

// By chunks of tokens, or by tiles of classes where the weight's gradient alone would make that
// slow.
Results loss_of(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
                const Wanted& wanted) {
  const LossDivision division = division_of(in, layer, wanted);
  if (division.way == Way::classes) return loss_in_two_passes(in, layer, labels, wanted, division);
  Results results = results_of(in, layer.input, wanted);
  CrossEntropy loss(in, labels, wanted, results);
  results.gradients = run_by_chunks(
      in, layer, {.ids = labels.ids, .totals = wanted.totals, .places = labels.places}, division,
      wanted.gradients, loss);
  return results;
}

at::Tensor count_targets(const CompositeCall& in, const at::Tensor& target,
                         const at::TensorOptions& exact) {
  static const Op& totals_op = op_named("cross_entropy_totals_");
  at::Tensor totals = at::empty({3}, exact);
  in.run(totals_op, {{"target", target},
                     {"weight", in["ce_weight"]},
                     {"num_items", in.tensor("num_items")},
                     {"totals", totals},
                     {"classes", in["weight"].toTensor().size(0)}});
  return totals;
}

// Loss and accuracy from rows; `loss` and `z_loss` are overwritten.
void add_rows(const CompositeCall& in, const at::Tensor& target, const Results& rows,
              const at::Tensor& totals, at::Tensor loss, at::Tensor z_loss,
              const at::Tensor& accuracy) {
  static const Op& mean_op = op_named("cross_entropy_mean_");
  in.run(mean_op, {{"row_loss", rows.row_loss},
                   {"row_z_loss", rows.row_z_loss},
                   {"predicted", rows.predicted},
                   {"target", target},
                   {"totals", totals},
                   {"loss", loss},
                   {"z_loss", z_loss},
                   {"token_accuracy", accuracy},
                   {"want_accuracy", accuracy.defined()}});
}

// A call's layer and labels, of the tokens that are kept.
struct Batch {
  explicit Batch(const CompositeCall& in) : Batch(in, in.tensor("target").contiguous()) {}

  KeptTokens kept;
  LinearLayer layer;
  Labels labels;

 private:
  Batch(const CompositeCall& in, const at::Tensor& target)
      : kept(KeptTokens::of(in, target)),
        layer(kept.layer(layer_of(in))),
        labels(kept.labels(in, target)) {}
};

Tensors reduced_loss(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const auto options = in.tensor("input").options(), exact = exact_options(options);
  const auto [kept, layer, labels] = Batch(in);
  const at::Tensor totals = count_targets(in, labels.ids, exact);
  const Results rows = loss_of(in, layer, labels,
                               {.loss = true,
                                .gradients = wanted_of(in, "with_gradient"),
                                .totals = totals,
                                .grad_output = {}});
  const at::Tensor loss = at::empty({}, exact);
  const at::Tensor z_loss = at::empty({}, exact);
  const at::Tensor accuracy = in["want_accuracy"].toBool() ? at::empty({}, exact) : at::Tensor();
  add_rows(in, labels.ids, rows, totals, loss, z_loss, accuracy);
  return {kept.checked(loss),
          z_loss,
          or_empty(accuracy, exact),
          or_empty(kept.spread(rows.predicted, -1), exact.dtype(at::kLong)),
          or_empty(kept.spread(rows.gradients.input, 0), options),
          or_empty(rows.gradients.weight, options),
          or_empty(rows.gradients.bias, options)};
}

Tensors each_loss(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const auto exact = exact_options(in.tensor("input").options());
  const auto [kept, layer, labels] = Batch(in);
  const Results rows = loss_of(in, layer, labels, {});
  at::Tensor accuracy;
  if (in["want_accuracy"].toBool()) {
    accuracy = at::empty({}, exact);
    add_rows(in, labels.ids, rows, count_targets(in, labels.ids, exact), at::empty({}, exact),
             at::empty({}, exact), accuracy);
  }
  return {kept.checked(kept.spread(rows.row_loss, 0)), kept.spread(rows.row_z_loss, 0),
          or_empty(accuracy, exact),
          or_empty(kept.spread(rows.predicted, -1), exact.dtype(at::kLong))};
}

Tensors each_gradient(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const auto [kept, layer, labels] = Batch(in);
  const Results rows = loss_of(in, layer, labels,
                               {.loss = false,
                                .gradients = wanted_of(in, "output_mask"),
                                .totals = {},
                                .grad_output = kept.rows(in.tensor("dloss").contiguous())});
  const auto options = layer.input.options();
  return {or_empty(kept.spread(rows.gradients.input, 0), options),
          or_empty(rows.gradients.weight, options), or_empty(rows.gradients.bias, options)};
}

const RegisterComposite reduced("fused_linear_cross_entropy", reduced_loss);
const RegisterComposite each("linear_cross_entropy_each", each_loss);
const RegisterComposite each_backward("linear_cross_entropy_each_backward", each_gradient);

}  // namespace
}  // namespace liger::torch_bindings
