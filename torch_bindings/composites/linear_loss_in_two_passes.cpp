// A fused linear loss that takes the least memory: tokens in a few groups, and for each group the
// classes in tiles, twice. The logits of a tile are made, folded into what is known of the tokens,
// and forgotten; with the losses known they are made again and turned into gradients.
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

#include <algorithm>

#include "ops/registry.h"
#include "torch_bindings/composites/linear_loss.h"

namespace liger::torch_bindings {
namespace {

// Sums over tiles of 32 bits and more are kept in 64, to be as exact as in one piece.
at::TensorOptions so_far_of(const at::TensorOptions& options) {
  return options.dtype(options.dtype().itemsize() < 4 ? at::kFloat : at::kDouble);
}

class TwoPasses {
 public:
  TwoPasses(const Inputs& in, const at::Tensor& input, const at::Tensor& target,
            const Wanted& wanted, const VocabularyTiles& tiles)
      : in_(in), wanted_(wanted), tiles_(tiles), input_(input), target_(target) {
    weight_ = in_.tensor("weight").contiguous();
    bias_ = in_.tensor("bias");
    options_ = input_.options();
    exact_ = exact_options(options_);
  }

  Results run() {
    prepare_results();
    prepare_buffers();
    for (int64_t first = 0; first < input_.size(0); first += tiles_.tokens) one_group(first);
    finish();
    return std::move(results_);
  }

 private:
  struct Group {
    int64_t first, count;
    at::Tensor input, target, so_far, gradient;
    at::Tensor dinput;  // its sum over tiles
  };
  struct Tile {
    int64_t first, count;
    at::Tensor weight;
    at::Tensor whole;   // its memory, of which the last tile uses less
    at::Tensor logits;  // the classes alone
  };

  void prepare_results() {
    results_ = results_of(in_, input_, wanted_);
    if (wanted_.dweight) {
      const auto accumulate = static_cast<Accumulate>(in_["accumulate"].toInt());
      const bool wide = accumulates_wide(sizes_of(input_, weight_), chunk_least_memory, accumulate);
      results_.dweight = at::empty(weight_.sizes(), wide ? exact_ : options_);
    }
    if (wanted_.dbias) results_.dbias = at::empty({weight_.size(0)}, exact_);
  }

  void prepare_buffers() {
    logits_ = at::empty({tiles_.tokens, tiles_.classes}, options_);
    so_far_ = at::empty({tiles_.tokens, 5}, so_far_of(options_));
    gradient_ = at::empty({tiles_.tokens, 4}, exact_);
    if (wanted_.dinput && exact_.dtype() != options_.dtype()) {
      dinput_sum_ = at::empty({tiles_.tokens, input_.size(1)}, exact_);
    }
  }

  void one_group(int64_t first) {
    const int64_t count = std::min(tiles_.tokens, input_.size(0) - first);
    Group group{first,
                count,
                input_.narrow(0, first, count),
                target_.narrow(0, first, count),
                so_far_.narrow(0, 0, count),
                gradient_.narrow(0, 0, count),
                {}};
    if (wanted_.dinput) {
      group.dinput = dinput_sum_.defined() ? dinput_sum_.narrow(0, 0, count)
                                           : results_.dinput.narrow(0, first, count);
    }
    each_tile(group, [&](const Tile& tile) { fold(group, tile); });
    each_tile(group, [&](const Tile& tile) { add_gradients(group, tile); });
    if (dinput_sum_.defined()) results_.dinput.narrow(0, first, count).copy_(group.dinput);
  }

  // Calls `use` with the logits of each tile.
  template <class Use>
  void each_tile(const Group& group, Use use) {
    const int64_t classes = weight_.size(0);
    for (int64_t first = 0; first < classes; first += tiles_.classes) {
      const int64_t count = std::min(tiles_.classes, classes - first);
      const at::Tensor whole = logits_.narrow(0, 0, group.count);
      Tile tile{first, count, weight_.narrow(0, first, count), whole, whole.narrow(1, 0, count)};
      if (bias_.defined()) {
        at::addmm_out(tile.logits, bias_.narrow(0, first, count), group.input, tile.weight.t());
      } else {
        at::mm_out(tile.logits, group.input, tile.weight.t());
      }
      use(tile);
    }
  }

  void fold(const Group& group, const Tile& tile) {
    static const Op& fold_op = op_named("cross_entropy_fold_");
    const auto part = [&](const at::Tensor& whole) {
      return whole.defined() ? c10::IValue(whole.narrow(0, group.first, group.count))
                             : c10::IValue();
    };
    // Rows are named where faults are found, with the last tile: all groups share the other plans.
    const bool is_last = tile.first + tile.count == weight_.size(0);
    c10::SmallVector<c10::IValue, 22> values = {tile.whole,
                                                group.target,
                                                in_["ce_weight"],
                                                or_none(wanted_.totals),
                                                part(wanted_.upstream),
                                                part(results_.row_loss),
                                                part(results_.row_z_loss),
                                                part(results_.predicted),
                                                group.so_far,
                                                group.gradient,
                                                tile.first,
                                                tile.count,
                                                weight_.size(0),
                                                is_last ? group.first : 0};
    append_options(values, in_);
    execute(fold_op, values, in_.op);
  }

  void add_gradients(const Group& group, const Tile& tile) {
    static const Op& gradient_op = op_named("cross_entropy_tile_gradient_");
    execute(gradient_op,
            {tile.whole, group.target, in_["ce_weight"], group.gradient, tile.first, tile.count,
             weight_.size(0), in_["ignore_index"], in_["label_smoothing"], in_["softcap"]},
            in_.op);
    if (wanted_.dinput) {
      at::Tensor sum = group.dinput;
      add_product(sum, tile.logits, tile.weight, tile.first == 0);
    }
    const bool is_first = group.first == 0;
    if (wanted_.dweight) {
      at::Tensor sum = results_.dweight.narrow(0, tile.first, tile.count);
      add_product(sum, tile.logits.t(), group.input, is_first);
    }
    if (wanted_.dbias) {
      const at::Tensor sums = at::sum(tile.logits, {0}, false, exact_.dtype().toScalarType());
      at::Tensor sum = results_.dbias.narrow(0, tile.first, tile.count);
      is_first ? sum.copy_(sums) : sum.add_(sums);
    }
  }

  void finish() {
    if (wanted_.dweight) results_.dweight = results_.dweight.to(options_.dtype());
    if (wanted_.dbias) results_.dbias = results_.dbias.to(options_.dtype());
  }

  const Inputs& in_;
  const Wanted& wanted_;
  const VocabularyTiles tiles_;
  Results results_;
  at::Tensor input_, target_, weight_, bias_;
  at::Tensor logits_, so_far_, gradient_, dinput_sum_;  // of one group
  at::TensorOptions options_, exact_;
};

}  // namespace

Results loss_in_two_passes(const Inputs& in, const at::Tensor& input, const at::Tensor& target,
                           const Wanted& wanted, const VocabularyTiles& tiles) {
  return TwoPasses(in, input, target, wanted, tiles).run();
}

void parts_of_two_passes(const Inputs& in, const VocabularyTiles& tiles, Place place, bool reduced,
                         bool backward) {
  const at::TensorOptions options = in.tensor("input").options();
  const at::TensorOptions exact = exact_options(options);
  const int64_t classes = in.tensor("weight").size(0);
  const c10::IValue none;
  const auto of_rows = [&](const at::TensorOptions& of) {
    return c10::IValue(at::empty({tiles.tokens}, of));
  };
  const auto numbers = [&](int64_t count, const at::TensorOptions& of) {
    return at::empty({tiles.tokens, count}, of);
  };
  const bool predicts =
      !backward && (in["want_accuracy"].toBool() || in["want_predicted"].toBool());
  const c10::IValue loss = backward ? none : of_rows(exact);
  const at::Tensor logits = numbers(tiles.classes, options);
  const c10::IValue target = of_rows(exact.dtype(at::kLong));
  std::vector<c10::IValue> fold = {logits,
                                   target,
                                   in["ce_weight"],
                                   reduced ? c10::IValue(at::empty({3}, exact)) : none,
                                   backward ? of_rows(exact) : none,
                                   loss,
                                   loss,
                                   predicts ? of_rows(exact.dtype(at::kLong)) : none,
                                   numbers(5, so_far_of(options)),
                                   numbers(4, exact),
                                   int64_t{0},
                                   tiles.classes,
                                   classes,
                                   int64_t{0}};
  append_options(fold, in);
  prepare(call_of(op_named("cross_entropy_fold_"), fold, place));
  prepare(call_of(op_named("cross_entropy_tile_gradient_"),
                  {logits, target, in["ce_weight"], numbers(4, exact), int64_t{0}, tiles.classes,
                   classes, in["ignore_index"], in["label_smoothing"], in["softcap"]},
                  place));
}

}  // namespace liger::torch_bindings
