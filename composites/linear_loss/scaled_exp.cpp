#include "composites/linear_loss/scaled_exp.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>

#include "base/parts.h"
#include "engine/registry.h"
#include "ops/linear_loss/tile_product.h"
#include "ops/row_knobs.h"

namespace liger::torch_bindings {
namespace {

// Of two bytes. As much is taken for the input's gradient in float32, so that its product has
// enough rows to keep a GPU busy.
constexpr int64_t most_fast_elements = int64_t{8} << 20;

bool aligned(const at::Tensor& tensor) {
  return tensor.is_meta() || reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

}  // namespace

bool ScaledExp::takes(const LinearLayer& layer) {
  return layer.input.scalar_type() == at::kBFloat16 && !layer.bias.defined() &&
         aligned(layer.input) && aligned(layer.weight);
}

ScaledExp::ScaledExp(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
                     const Units& units, int64_t chunk, bool with_gradient)
    : in_(in),
      layer_(layer),
      ids_(labels.ids),
      chunk_(chunk),
      chunk_tokens_(chunk * units.of_unit()),
      totals_(labels.totals) {
  const int64_t tokens = layer_.input.size(0);
  const auto floats = layer_.input.options().dtype(at::kFloat);
  score_ = at::empty({tokens}, floats);
  reference_ = at::empty({tokens}, floats);
  const int64_t sums = tile_numbers(layer_.weight.size(0));
  sums_ = at::empty({chunk_tokens_, sums}, floats);
  maxima_ = at::empty({chunk_tokens_, sums}, floats);
  if (with_gradient) {
    factor_ = at::empty({chunk_tokens_}, floats);
    const int64_t hidden = layer_.input.size(1);
    const int64_t elements = chunk_tokens_ * hidden;
    const int64_t fast = std::min(elements * 2, most_fast_elements);
    scratch_ = at::empty({std::max(elements, fast)}, layer_.input.options());
    scaled_input_ = scratch_.narrow(0, 0, elements).view({chunk_tokens_, hidden});
  }
  wanted_ = at::zeros({parts(units.count, chunk)}, floats.dtype(at::kLong));
  static const Op& of_target = op_named("linear_reference_");
  static const Op& of_ids = op_named("linear_reference_of_ids_");
  const bool has_ids = in_.find("ids") != nullptr;
  in_.run(has_ids ? of_ids : of_target, {{"input", layer_.input},
                                         {"weight", layer_.weight},
                                         {has_ids ? "ids" : "target", ids_},
                                         {"score", score_},
                                         {"reference", reference_},
                                         {"places", labels.places}});
}

at::Tensor ScaledExp::buffer() const {
  if (!scaled_input_.defined()) return {};
  const int64_t classes = layer_.weight.size(0);
  return at::empty({chunk_tokens_, padded_columns(classes)}, layer_.input.options())
      .narrow(1, 0, classes);
}

at::Tensor ScaledExp::chunk(const Chunk& chunk, const at::Tensor& x, const at::Tensor& e,
                            const ExponentialLosses& losses) const {
  static const Op& product = op_named("scaled_exp_");
  static const Op& rows = op_named("scaled_exp_rows_");
  const int64_t count = chunk.tokens();
  const at::Tensor reference = chunk.gather(reference_);
  const at::Tensor sums = rows_of(sums_, 0, count), maxima = rows_of(maxima_, 0, count);
  const at::Tensor wanted = wanted_.narrow(0, chunk.first / chunk_, 1);
  const at::Tensor scaled_input = rows_of(scaled_input_, 0, count);
  const at::Tensor target = chunk.gather(ids_), score = chunk.gather(score_);
  // The second time does nothing where the first was right, which nobody waits to hear.
  for (const bool again : {false, true}) {
    in_.run(product, {{"input", x},
                      {"weight", layer_.weight},
                      {"reference", reference},
                      {"exponentials", e},
                      {"sums", sums},
                      {"maxima", maxima},
                      {"wanted", again ? wanted : at::Tensor()}});
    in_.run(rows, {{"input", x},
                   {"target", target},
                   {"score", score},
                   {"sums", sums},
                   {"maxima", maxima},
                   {"totals", totals_},
                   {"reference", reference},
                   {"exponentials", e},
                   {"row_loss", losses.loss},
                   {"row_z_loss", losses.z_loss},
                   {"factor", rows_of(factor_, 0, count)},
                   {"scaled_input", scaled_input},
                   {"wanted", wanted},
                   {"classes", layer_.weight.size(0)},
                   {"again", again}});
  }
  return scaled_input;
}

void ScaledExp::weigh(const at::Tensor& x, const at::Tensor& weights) const {
  if (!weights.defined()) return;
  at::Tensor factor = factor_.narrow(0, 0, weights.size(0));
  at::Tensor scaled = scaled_input_.narrow(0, 0, weights.size(0));
  factor.mul_(weights);
  at::mul_out(scaled, x, factor.unsqueeze(1));
  scaled.masked_fill_(factor.eq(0).unsqueeze(1), 0);  // a row that does not count may hold anything
}

// The products stay in float32 until they are scaled: rounded before, they would be rounded twice.
// They lie where the scaled input was, which takes as much as half of them.
void ScaledExp::gradient(const at::Tensor& e, const at::Tensor& dx) const {
  const int64_t hidden = dx.size(1);
  const at::Tensor wide = scratch_.narrow(0, 0, scratch_.numel() / 2 * 2).view(at::kFloat);
  const int64_t rows = wide.size(0) / hidden;
  for (int64_t first = 0; first < dx.size(0); first += rows) {
    const int64_t count = std::min(rows, dx.size(0) - first);
    at::Tensor product = wide.narrow(0, 0, count * hidden).view({count, hidden});
    add_product(product, e.narrow(0, first, count), layer_.weight, true);
    at::Tensor of_rows = dx.narrow(0, first, count);
    at::mul_out(of_rows, product, factor_.narrow(0, first, count).unsqueeze(1));
  }
}

}  // namespace liger::torch_bindings
