// A fused linear loss that takes the least memory: tokens in a few groups, and for each group the
// classes in tiles, twice. The logits of a tile are made, folded into what is known of the tokens,
// and forgotten; with the losses known they are made again and turned into gradients.
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

#include <algorithm>

#include "composites/linear_loss/cross_entropy.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

// Sums over tiles of 32 bits and more are kept in 64, to be as exact as in one piece.
at::TensorOptions running_of(const at::TensorOptions& options) {
  return options.dtype(options.dtype().itemsize() < 4 ? at::kFloat : at::kDouble);
}

class TwoPasses {
 public:
  TwoPasses(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
            const Wanted& wanted, const LossDivision& division)
      : in_(in),
        wanted_(wanted),
        makes_(wanted.gradients),
        tiles_(division.tiles),
        wide_sum_(division.wide_sum),
        labels_(labels),
        input_(layer.input),
        weight_(layer.weight),
        bias_(layer.bias) {
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
    at::Tensor input, target, running, gradient;
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
    if (makes_.input) results_.gradients.input = at::empty(input_.sizes(), options_);
    if (makes_.weight) {
      results_.gradients.weight = at::empty(weight_.sizes(), wide_sum_ ? exact_ : options_);
    }
    if (makes_.bias) results_.gradients.bias = at::empty({weight_.size(0)}, exact_);
  }

  void prepare_buffers() {
    logits_ = at::empty({tiles_.tokens, tiles_.classes}, options_);
    running_ = at::empty({tiles_.tokens, 5}, running_of(options_));
    gradient_ = at::empty({tiles_.tokens, 4}, exact_);
    if (makes_.input && exact_.dtype() != options_.dtype()) {
      dinput_sum_ = at::empty({tiles_.tokens, input_.size(1)}, exact_);
    }
  }

  void one_group(int64_t first) {
    const int64_t count = std::min(tiles_.tokens, input_.size(0) - first);
    Group group{first,
                count,
                input_.narrow(0, first, count),
                labels_.ids.narrow(0, first, count),
                running_.narrow(0, 0, count),
                gradient_.narrow(0, 0, count),
                {}};
    if (makes_.input) {
      group.dinput = dinput_sum_.defined() ? dinput_sum_.narrow(0, 0, count)
                                           : results_.gradients.input.narrow(0, first, count);
    }
    each_tile(group, [&](const Tile& tile) { accumulate(group, tile); });
    each_tile(group, [&](const Tile& tile) { add_gradients(group, tile); });
    if (dinput_sum_.defined()) results_.gradients.input.narrow(0, first, count).copy_(group.dinput);
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

  void accumulate(const Group& group, const Tile& tile) {
    static const Op& accumulate_op = op_named("cross_entropy_accumulate_");
    const auto part = [&](const at::Tensor& whole) {
      return rows_of(whole, group.first, group.count);
    };
    // Rows are named where faults are found, with the last tile: all groups share the other plans.
    const bool is_last = tile.first + tile.count == weight_.size(0);
    in_.run(accumulate_op, {{"logits", tile.whole},
                            {"target", group.target},
                            {"weight", in_["ce_weight"]},
                            {"totals", wanted_.totals},
                            {"grad_output", part(wanted_.grad_output)},
                            {"loss", part(results_.row_loss)},
                            {"z_loss", part(results_.row_z_loss)},
                            {"predicted", part(results_.predicted)},
                            {"running", group.running},
                            {"gradient", group.gradient},
                            {"places", labels_.places},
                            {"first_column", tile.first},
                            {"columns", tile.count},
                            {"classes", weight_.size(0)},
                            {"first_row", is_last ? group.first : 0}});
  }

  void add_gradients(const Group& group, const Tile& tile) {
    static const Op& gradient_op = op_named("cross_entropy_tile_gradient_");
    in_.run(gradient_op, {{"logits", tile.whole},
                          {"target", group.target},
                          {"weight", in_["ce_weight"]},
                          {"gradient", group.gradient},
                          {"first_column", tile.first},
                          {"columns", tile.count},
                          {"classes", weight_.size(0)}});
    if (makes_.input) {
      at::Tensor sum = group.dinput;
      add_product(sum, tile.logits, tile.weight, tile.first == 0);
    }
    const bool is_first = group.first == 0;
    if (makes_.weight) {
      at::Tensor sum = results_.gradients.weight.narrow(0, tile.first, tile.count);
      add_product(sum, tile.logits.t(), group.input, is_first);
    }
    if (makes_.bias) {
      const at::Tensor sums = at::sum(tile.logits, {0}, false, exact_.dtype().toScalarType());
      at::Tensor sum = results_.gradients.bias.narrow(0, tile.first, tile.count);
      is_first ? sum.copy_(sums) : sum.add_(sums);
    }
  }

  void finish() {
    if (makes_.weight) results_.gradients.weight = results_.gradients.weight.to(options_.dtype());
    if (makes_.bias) results_.gradients.bias = results_.gradients.bias.to(options_.dtype());
  }

  const CompositeCall& in_;
  const Wanted& wanted_;
  const WantedGradients& makes_;
  const VocabularyTiles tiles_;
  const bool wide_sum_;
  Results results_;
  const Labels& labels_;
  at::Tensor input_, weight_, bias_;
  at::Tensor logits_, running_, gradient_, dinput_sum_;  // of one group
  at::TensorOptions options_, exact_;
};

}  // namespace

Results loss_in_two_passes(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
                           const Wanted& wanted, const LossDivision& division) {
  return TwoPasses(in, layer, labels, wanted, division).run();
}

}  // namespace liger::torch_bindings
