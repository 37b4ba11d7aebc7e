#include "composites/linear_loss/linear_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "composites/linear_loss/scaled_exp.h"

namespace liger::torch_bindings {
namespace {

class Chunks {
 public:
  Chunks(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
         const LossDivision& division, const WantedGradients& wanted, ChunkLoss& loss)
      : in_(in), layer_(layer), division_(division), wanted_(wanted), loss_(loss) {
    options_ = layer_.input.options();
    exact_ = exact_options(options_);
    if (division_.way == Way::exponentials) {
      exponentials_.emplace(in, layer, labels, division_.units, division_.chunk, wanted_.any());
    }
  }

  LayerGradients run() {
    if (wanted_.input) gradients_.input = at::empty(layer_.input.sizes(), options_);
    const int64_t classes = layer_.weight.size(0);
    const int64_t tokens = division_.chunk_tokens();
    // Too few tokens make logits: those that have a label, or another batch's.
    if (exponentials_ && in_.records())
      loss_.take_logits(chunk_at(0), at::empty({tokens, classes}, options_), true);
    const bool has_logits = loss_.holds_logits() || wanted_.any();
    all_chunks(exponentials_ ? exponentials_->buffer()
               : has_logits  ? at::empty({tokens, classes}, options_)
                             : at::Tensor());
    // Its memory serves the weight's gradient in the weight's dtype.
    exponentials_.reset();
    finish();
    return std::move(gradients_);
  }

 private:
  Chunk chunk_at(int64_t first) const {
    return {division_.units, first, std::min(division_.chunk, division_.units.count - first)};
  }

  void all_chunks(const at::Tensor& buffer) {
    for (int64_t first = 0; first < division_.units.count; first += division_.chunk) {
      const Chunk chunk = chunk_at(first);
      const at::Tensor logits = rows_of(buffer, 0, chunk.tokens());
      exponentials_ ? one_of_exponentials(chunk, logits) : one(chunk, logits);
    }
  }

  void one(const Chunk& chunk, at::Tensor logits) {
    const at::Tensor x = chunk.gather(layer_.input);
    if (loss_.wants_logits()) logits_into(logits, layer_, x);
    loss_.take_logits(chunk, logits, false);
    if (wanted_.input) {
      at::Tensor dx = room_for_input_gradient(chunk);
      at::mm_out(dx, logits, layer_.weight);
      chunk.scatter(dx, gradients_.input);
    }
    if (wanted_.weight) add_to_weight(chunk, logits, x);
    if (wanted_.bias) {
      const at::Tensor sums = at::sum(logits, {0}, false, exact_.dtype().toScalarType());
      gradients_.bias = chunk.first == 0 ? sums : gradients_.bias.add_(sums);
    }
  }

  void one_of_exponentials(const Chunk& chunk, const at::Tensor& e) {
    const at::Tensor x = chunk.gather(layer_.input);
    const ExponentialLosses losses = loss_.losses_of(chunk);
    const at::Tensor scaled = exponentials_->chunk(chunk, x, e, losses);
    if (!wanted_.any()) return;
    exponentials_->weigh(x, loss_.weights_of(chunk, losses.loss));
    if (wanted_.weight) add_to_weight(chunk, e, scaled);
    if (wanted_.input) {
      const at::Tensor dx = room_for_input_gradient(chunk);
      exponentials_->gradient(e, dx);
      chunk.scatter(dx, gradients_.input);
    }
  }

  // In its place, where that is one.
  at::Tensor room_for_input_gradient(const Chunk& chunk) const {
    if (chunk.batch.parts == 1) return chunk.gather(gradients_.input);
    return at::empty({chunk.tokens(), layer_.input.size(1)}, options_);
  }

  void add_to_weight(const Chunk& chunk, const at::Tensor& dlogits, const at::Tensor& x) {
    const bool is_first = chunk.first == 0;
    if (is_first) {
      const auto dtype = division_.wide_sum ? exact_.dtype() : options_.dtype();
      gradients_.weight = at::empty(layer_.weight.sizes(), options_.dtype(dtype));
    }
    add_product(gradients_.weight, dlogits.t(), x, is_first);
  }

  void finish() {
    const bool none = division_.units.all() == 0;
    if (wanted_.weight) {
      gradients_.weight = none ? at::zeros(layer_.weight.sizes(), options_)
                               : gradients_.weight.to(options_.dtype());
    }
    if (wanted_.bias) {
      gradients_.bias = none ? at::zeros({layer_.weight.size(0)}, options_)
                             : gradients_.bias.to(options_.dtype());
    }
  }

  const CompositeCall& in_;
  const LinearLayer& layer_;
  const LossDivision& division_;
  const WantedGradients& wanted_;
  ChunkLoss& loss_;
  LayerGradients gradients_;
  at::TensorOptions options_, exact_;
  std::optional<ScaledExp> exponentials_;
};

}  // namespace

LinearLossSizes LinearLayer::sizes() const {
  return {input.size(0), input.size(1), weight.size(0), static_cast<int64_t>(input.element_size())};
}

LinearLayer layer_of(const CompositeCall& in) {
  return {by_rows(in.tensor("input")).contiguous(), in.tensor("weight").contiguous(),
          in.tensor("bias")};
}

WantedGradients wanted_of(const CompositeCall& in, std::string_view mask) {
  const auto asked = in[mask].toBoolList();
  return {asked[0], asked[1], asked[2] && in.has("bias")};
}

at::Tensor Chunk::of_batch(const at::Tensor& whole, int64_t part) const {
  return rows_of(whole, first_token(part), part_tokens());
}

at::Tensor Chunk::of_chunk(const at::Tensor& whole, int64_t part) const {
  return rows_of(whole, part * part_tokens(), part_tokens());
}

at::Tensor Chunk::gather(const at::Tensor& whole) const {
  if (batch.parts == 1) return of_batch(whole, 0);
  std::vector<at::Tensor> rows;
  for (int64_t part = 0; part < batch.parts; ++part) rows.push_back(of_batch(whole, part));
  return at::cat(rows);
}

void Chunk::scatter(const at::Tensor& rows, const at::Tensor& whole) const {
  if (batch.parts == 1) return;
  for (int64_t part = 0; part < batch.parts; ++part)
    of_batch(whole, part).copy_(of_chunk(rows, part));
}

Labels Labels::of(const Chunk& chunk, int64_t part) const {
  return {chunk.of_batch(ids, part), totals, chunk.of_batch(second, part), places};
}

void logits_into(at::Tensor& logits, const LinearLayer& layer, const at::Tensor& rows) {
  if (layer.bias.defined()) {
    at::addmm_out(logits, layer.bias, rows, layer.weight.t());
  } else {
    at::mm_out(logits, rows, layer.weight.t());
  }
}

LayerGradients run_by_chunks(const CompositeCall& in, const LinearLayer& layer,
                             const Labels& labels, const LossDivision& division,
                             const WantedGradients& wanted, ChunkLoss& loss) {
  return Chunks(in, layer, labels, division, wanted, loss).run();
}

at::TensorOptions exact_options(const at::TensorOptions& options) {
  return options.dtype(options.dtype() == at::kDouble ? at::kDouble : at::kFloat);
}

at::Tensor share_of_token(const CompositeCall& in, const at::Tensor& target, int64_t tokens,
                          const at::TensorOptions& exact, double each) {
  if (!target.defined())
    return at::full({}, 1.0 / (static_cast<double>(std::max<int64_t>(tokens, 1)) * each), exact);
  at::Tensor counts = target.ne(in["ignore_index"].toInt()).sum().clamp_min(1);
  counts = counts.to(exact.dtype().toScalarType());
  return (each == 1.0 ? counts : counts * each).reciprocal();
}

at::Tensor or_empty(const at::Tensor& tensor, const at::TensorOptions& options) {
  return tensor.defined() ? tensor : at::empty({0}, options);
}

void append_gradients(Tensors& outputs, const LayerGradients& made, const at::Tensor& input) {
  const auto options = input.options();
  outputs.push_back(made.input.defined() ? made.input.view(input.sizes())
                                         : at::empty({0}, options));
  outputs.push_back(or_empty(made.weight, options));
  outputs.push_back(or_empty(made.bias, options));
}

}  // namespace liger::torch_bindings
