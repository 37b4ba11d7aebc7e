// Cross entropy of a linear layer without the whole logits: for each chunk of tokens, logits by a
// matrix product, loss and gradient in place by a kernel, then the products for the gradients.
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/nonzero_static.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "composites/linear_loss/linear_loss.h"
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

class Loop {
 public:
  Loop(const CompositeCall& inputs, const Tokens& tokens, Wanted wanted)
      : in_(inputs), wanted_(std::move(wanted)), input_(tokens.input), target_(tokens.target) {
    weight_ = in_.tensor("weight").contiguous();
    bias_ = in_.tensor("bias");
    options_ = input_.options();
    exact_ = exact_options(options_);
  }

  Results run() {
    const int64_t tokens = input_.size(0);
    const LinearLossSizes sizes = sizes_of(input_, weight_);
    const int64_t asked = in_["chunk_tokens"].toInt();
    const int64_t chunk = chunk_tokens_of(sizes, asked);
    const auto accumulate = static_cast<Accumulate>(in_["accumulate"].toInt());
    sum_dtype_ = accumulates_wide(sizes, asked, accumulate) ? exact_.dtype() : options_.dtype();
    results_ = results_of(in_, input_, wanted_);
    const LinearLoss loss{in_, input_, weight_, target_, wanted_.totals};
    if (ScaledExp::serve(loss, chunk)) {
      exponentials_.emplace(loss, chunk, wanted_.gradient());
      // Too few tokens make logits: those that have a label, or another batch's.
      if (in_.records())
        loss_and_gradient(at::empty({chunk, sizes.classes}, options_), 0, chunk, true);
    }
    at::Tensor buffer =
        exponentials_ ? exponentials_->buffer() : at::empty({chunk, sizes.classes}, options_);
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t count = std::min(chunk, tokens - first);
      const at::Tensor logits = buffer.defined() ? buffer.narrow(0, 0, count) : buffer;
      exponentials_ ? one_chunk_of_exponentials(first, count, logits, first == 0)
                    : one_chunk(first, count, logits, first == 0);
    }
    finish(tokens);
    return std::move(results_);
  }

 private:
  void one_chunk(int64_t first, int64_t count, at::Tensor logits, bool is_first) {
    const at::Tensor x = input_.narrow(0, first, count);
    if (bias_.defined()) {
      at::addmm_out(logits, bias_, x, weight_.t());
    } else {
      at::mm_out(logits, x, weight_.t());
    }
    loss_and_gradient(logits, first, count);
    if (wanted_.dinput) {
      at::Tensor dx = results_.dinput.narrow(0, first, count);
      at::mm_out(dx, logits, weight_);
    }
    if (wanted_.dweight) add_to_dweight(logits, x, is_first);
    if (wanted_.dbias) {
      const at::Tensor sums = at::sum(logits, {0}, false, exact_.dtype().toScalarType());
      results_.dbias = is_first ? sums : results_.dbias.add_(sums);
    }
  }

  void one_chunk_of_exponentials(int64_t first, int64_t count, const at::Tensor& e, bool is_first) {
    const auto part = [&](const at::Tensor& whole) { return whole.narrow(0, first, count); };
    const at::Tensor x =
        exponentials_->chunk(first, count, e, part(results_.row_loss), part(results_.row_z_loss));
    if (wanted_.dweight) add_to_dweight(e, x, is_first);
    if (wanted_.dinput) exponentials_->gradient(e, part(results_.dinput));
  }

  void add_to_dweight(const at::Tensor& dlogits, const at::Tensor& x, bool is_first) {
    if (is_first) results_.dweight = at::empty(weight_.sizes(), options_.dtype(sum_dtype_));
    add_product(results_.dweight, dlogits.t(), x, is_first);
  }

  void loss_and_gradient(const at::Tensor& logits, int64_t first, int64_t count,
                         bool spare = false) {
    static const Op& chunk_op = op_named("cross_entropy_chunk_");
    const auto part = [&](const at::Tensor& whole) { return rows_of(whole, first, count); };
    in_.run(chunk_op,
            {{"logits", logits},
             {"target", target_.narrow(0, first, count)},
             {"weight", in_["ce_weight"]},
             {"totals", wanted_.totals},
             {"grad_output", part(wanted_.grad_output)},
             {"loss", part(results_.row_loss)},
             {"z_loss", part(results_.row_z_loss)},
             {"predicted", part(results_.predicted)},
             {"first_row", first},
             {"with_gradient", wanted_.gradient()}},
            spare);
  }

  void finish(int64_t tokens) {
    if (wanted_.dweight) {
      results_.dweight = tokens == 0 ? at::zeros(weight_.sizes(), options_)
                                     : results_.dweight.to(options_.dtype());
    }
    if (wanted_.dbias) {
      results_.dbias = tokens == 0 ? at::zeros({weight_.size(0)}, options_)
                                   : results_.dbias.to(options_.dtype());
    }
  }

  const CompositeCall& in_;
  Wanted wanted_;
  Results results_;
  at::Tensor input_, target_, weight_, bias_;
  at::TensorOptions options_, exact_;
  caffe2::TypeMeta sum_dtype_;
  std::optional<ScaledExp> exponentials_;
};

// By chunks of tokens, or by tiles of classes where the weight's gradient alone would make that
// slow.
Results loss_of(const CompositeCall& in, const Tokens& tokens, Wanted wanted) {
  const LinearLossSizes sizes = sizes_of(tokens.input, in["weight"].toTensor());
  const auto tiles = two_passes_of(sizes, in["chunk_tokens"].toInt());
  if (wanted.dweight && tiles) {
    return loss_in_two_passes(in, tokens.input, tokens.target, wanted, *tiles);
  }
  return Loop(in, tokens, std::move(wanted)).run();
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

at::Tensor or_empty(const at::Tensor& tensor, const at::TensorOptions& options) {
  return tensor.defined() ? tensor : at::empty({0}, options);
}

Tensors reduced_loss(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const at::Tensor input = in.tensor("input");
  const auto exact = exact_options(input.options());
  const auto asked = in["with_gradient"].toBoolList();
  const Tokens tokens = Tokens::labelled(in);
  const at::Tensor totals = count_targets(in, tokens, exact);
  const bool dbias = asked[2] && in.has("bias");
  const Results rows = loss_of(in, tokens,
                               {.loss = true,
                                .dinput = asked[0],
                                .dweight = asked[1],
                                .dbias = dbias,
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
          or_empty(tokens.spread(rows.dinput, 0), input.options()),
          or_empty(rows.dweight, input.options()),
          or_empty(rows.dbias, input.options())};
}

Tensors each_loss(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const auto exact = exact_options(in.tensor("input").options());
  const Tokens tokens = Tokens::all(in);
  const Results rows = Loop(in, tokens, {}).run();
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
  const auto output_mask = in["output_mask"].toBoolList();
  const bool dbias = output_mask[2] && in.has("bias");
  Wanted wanted{.loss = false,
                .dinput = output_mask[0],
                .dweight = output_mask[1],
                .dbias = dbias,
                .totals = {},
                .grad_output = in.tensor("dloss").contiguous()};
  const Results rows = loss_of(in, Tokens::all(in), std::move(wanted));
  const auto options = in.tensor("input").options();
  return {or_empty(rows.dinput, options), or_empty(rows.dweight, options),
          or_empty(rows.dbias, options)};
}

const RegisterComposite reduced("fused_linear_cross_entropy", reduced_loss);
const RegisterComposite each("linear_cross_entropy_each", each_loss);
const RegisterComposite each_backward("linear_cross_entropy_each_backward", each_gradient);

}  // namespace
}  // namespace liger::torch_bindings
