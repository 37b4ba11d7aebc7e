// Cross entropy of a linear layer without the whole logits: for each chunk of tokens, logits by a
// matrix product, loss and gradient in place by a kernel, then the products for the gradients.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nonzero_static.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>

#include "composites/linear_loss/cross_entropy.h"
#include "composites/linear_loss/scaled_exp.h"
#include "engine/registry.h"
#include "ops/loss/cross_entropy.h"

namespace liger::torch_bindings {
namespace {

// The tokens that a loss looks at: all, or those whose label is not ignored, as far as their
// number is known without waiting for a GPU.
class Tokens {
 public:
  static Tokens all(const CompositeCall& in) {
    return Tokens(in.tensor("input").contiguous(), in.tensor("target").contiguous());
  }

  static Tokens labelled(const CompositeCall& in) {
    Tokens tokens = all(in);
    if (in.records()) return tokens;
    const int64_t total = tokens.target.size(0);
    const int64_t ignored = in["ignore_index"].toInt();
    int64_t counted = in["counted_tokens"].toInt();
    if (tokens.target.is_cpu()) counted = tokens.target.ne(ignored).sum().item<int64_t>();
    // A few sizes only, so that a plan serves many steps; and a copy of the rows has to pay.
    const int64_t kept = (counted + size_step - 1) / size_step * size_step;
    if (counted < 0 || kept > total / 10 * 9) return tokens;
    tokens.keep_labelled(ignored, kept);
    return tokens;
  }

  // A tensor [all tokens, ...] with the kept tokens' values in their places, `missing` elsewhere.
  at::Tensor spread(const at::Tensor& of_kept, double missing) const {
    if (!of_kept.defined() || !place_.defined()) return of_kept;
    std::vector<int64_t> sizes = of_kept.sizes().vec();
    sizes[0] = total_ + 1;  // the last takes the padding
    at::Tensor whole = at::full(sizes, missing, of_kept.options());
    whole.index_copy_(0, place_, of_kept);
    return whole.narrow(0, 0, total_);
  }

  // NaN where the caller's count was too small, which would leave labels out without a word.
  at::Tensor checked(const at::Tensor& loss) const {
    return count_is_right_.defined() ? at::where(count_is_right_, loss, NAN) : loss;
  }

  at::Tensor input, target;

 private:
  static constexpr int64_t size_step = 128;

  Tokens(at::Tensor input, at::Tensor target)
      : input(std::move(input)), target(std::move(target)), total_(this->target.size(0)) {}

  void keep_labelled(int64_t ignored, int64_t kept) {
    const at::Tensor labelled = target.ne(ignored);
    if (!target.is_cpu()) count_is_right_ = labelled.sum().le(kept);
    const at::Tensor found = at::nonzero_static(labelled, kept, -1).squeeze(1);
    const at::Tensor padding = found.lt(0);
    // The padding repeats a labelled row: an ignored one may hold anything, a NaN too.
    const at::Tensor from =
        at::where(padding, found.narrow(0, 0, std::min<int64_t>(kept, 1)), found).clamp_min(0);
    place_ = at::where(padding, total_, found);
    input = input.index_select(0, from);
    target = at::where(padding, ignored, target.index_select(0, from));
  }

  int64_t total_;
  at::Tensor place_, count_is_right_;
};

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
  CrossEntropy(const CompositeCall& in, const at::Tensor& target, const Wanted& wanted,
               const Results& results)
      : in_(in), target_(target), wanted_(wanted), results_(results) {}

  void take_logits(const Chunk& chunk, const at::Tensor& logits, bool spare) override {
    static const Op& chunk_op = op_named("cross_entropy_chunk_");
    const auto part = [&](const at::Tensor& whole) { return chunk.of_batch(whole, 0); };
    in_.run(chunk_op,
            {{"logits", logits},
             {"target", part(target_)},
             {"weight", in_["ce_weight"]},
             {"totals", wanted_.totals},
             {"grad_output", part(wanted_.grad_output)},
             {"loss", part(results_.row_loss)},
             {"z_loss", part(results_.row_z_loss)},
             {"predicted", part(results_.predicted)},
             {"first_row", chunk.first},
             {"with_gradient", wanted_.gradients.any()}},
            spare);
  }

  ExponentialLosses losses_of(const Chunk& chunk) override {
    return {chunk.of_batch(results_.row_loss, 0), chunk.of_batch(results_.row_z_loss, 0)};
  }

 private:
  const CompositeCall& in_;
  const at::Tensor& target_;
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
Results loss_of(const CompositeCall& in, const Tokens& tokens, const Wanted& wanted) {
  const LinearLayer layer{tokens.input, in.tensor("weight").contiguous(), in.tensor("bias")};
  const LossDivision division = division_of(in, layer, wanted);
  if (division.way == Way::classes) {
    return loss_in_two_passes(in, layer, tokens.target, wanted, division);
  }
  Results results = results_of(in, tokens.input, wanted);
  CrossEntropy loss(in, tokens.target, wanted, results);
  results.gradients =
      run_by_chunks(in, layer, {tokens.target, wanted.totals}, division, wanted.gradients, loss);
  return results;
}

at::Tensor count_targets(const CompositeCall& in, const Tokens& tokens,
                         const at::TensorOptions& exact) {
  static const Op& totals_op = op_named("cross_entropy_totals_");
  at::Tensor totals = at::empty({3}, exact);
  in.run(totals_op, {{"target", tokens.target},
                     {"weight", in["ce_weight"]},
                     {"num_items", in.tensor("num_items")},
                     {"totals", totals},
                     {"classes", in["weight"].toTensor().size(0)}});
  return totals;
}

// Loss and accuracy from rows; `loss` and `z_loss` are overwritten.
void add_rows(const CompositeCall& in, const Tokens& tokens, const Results& rows,
              const at::Tensor& totals, at::Tensor loss, at::Tensor z_loss,
              const at::Tensor& accuracy) {
  static const Op& mean_op = op_named("cross_entropy_mean_");
  in.run(mean_op, {{"row_loss", rows.row_loss},
                   {"row_z_loss", rows.row_z_loss},
                   {"predicted", rows.predicted},
                   {"target", tokens.target},
                   {"totals", totals},
                   {"loss", loss},
                   {"z_loss", z_loss},
                   {"token_accuracy", accuracy},
                   {"want_accuracy", accuracy.defined()}});
}

Tensors reduced_loss(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const at::Tensor input = in.tensor("input");
  const auto exact = exact_options(input.options());
  const Tokens tokens = Tokens::labelled(in);
  const at::Tensor totals = count_targets(in, tokens, exact);
  const Results rows = loss_of(in, tokens,
                               {.loss = true,
                                .gradients = wanted_of(in, "with_gradient"),
                                .totals = totals,
                                .grad_output = {}});
  const at::Tensor loss = at::empty({}, exact);
  const at::Tensor z_loss = at::empty({}, exact);
  const at::Tensor accuracy = in["want_accuracy"].toBool() ? at::empty({}, exact) : at::Tensor();
  add_rows(in, tokens, rows, totals, loss, z_loss, accuracy);
  return {tokens.checked(loss),
          z_loss,
          or_empty(accuracy, exact),
          or_empty(tokens.spread(rows.predicted, -1), exact.dtype(at::kLong)),
          or_empty(tokens.spread(rows.gradients.input, 0), input.options()),
          or_empty(rows.gradients.weight, input.options()),
          or_empty(rows.gradients.bias, input.options())};
}

Tensors each_loss(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const auto exact = exact_options(in.tensor("input").options());
  const Tokens tokens = Tokens::all(in);
  const Results rows = loss_of(in, tokens, {});
  at::Tensor accuracy;
  if (in["want_accuracy"].toBool()) {
    accuracy = at::empty({}, exact);
    add_rows(in, tokens, rows, count_targets(in, tokens, exact), at::empty({}, exact),
             at::empty({}, exact), accuracy);
  }
  return {rows.row_loss, rows.row_z_loss, or_empty(accuracy, exact),
          or_empty(rows.predicted, exact.dtype(at::kLong))};
}

Tensors each_gradient(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const Results rows = loss_of(in, Tokens::all(in),
                               {.loss = false,
                                .gradients = wanted_of(in, "output_mask"),
                                .totals = {},
                                .grad_output = in.tensor("dloss").contiguous()});
  const auto options = in.tensor("input").options();
  return {or_empty(rows.gradients.input, options), or_empty(rows.gradients.weight, options),
          or_empty(rows.gradients.bias, options)};
}

const RegisterComposite reduced("fused_linear_cross_entropy", reduced_loss);
const RegisterComposite each("linear_cross_entropy_each", each_loss);
const RegisterComposite each_backward("linear_cross_entropy_each_backward", each_gradient);

}  // namespace
}  // namespace liger::torch_bindings
