#include "composites/linear_loss/log_prob_product.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "composites/linear_loss/scaled_exp.h"
#include "engine/registry.h"
#include "ops/linear_loss/log_prob_product.h"
#include "ops/linear_loss/tile_product.h"

namespace liger::torch_bindings {
namespace {

struct Scores {
  at::Tensor ids, of_ids;  // [rows]; undefined: the statistics alone are wanted
};

// Of these rows of the layer's input, what is defined of the logits, the numbers and the
// statistics.
void make(const CompositeCall& in, const LinearLayer& layer, const at::Tensor& x,
          const TileSums& tiles, const at::Tensor& logits, const Scores& scores,
          const TokenNumbers& numbers, const at::Tensor& statistics) {
  static const Op& product = op_named("log_prob_product_");
  static const Op& of_tiles = op_named("log_prob_tiles_");
  const at::Tensor maxima = rows_of(tiles.maxima, 0, x.size(0));
  const at::Tensor sums = rows_of(tiles.sums, 0, x.size(0));
  const at::Tensor weighted = rows_of(tiles.weighted, 0, x.size(0));
  in.run(product, {{"input", x},
                   {"weight", layer.weight},
                   {"maxima", maxima},
                   {"sums", sums},
                   {"weighted", weighted},
                   {"logits", logits}});
  in.run(of_tiles, {{"input", x},
                    {"ids", scores.ids},
                    {"score", scores.of_ids},
                    {"logits", scores.ids.defined() ? logits : at::Tensor()},
                    {"maxima", maxima},
                    {"sums", sums},
                    {"weighted", weighted},
                    {"log_probs", numbers.log_prob},
                    {"entropy", numbers.entropy},
                    {"statistics", statistics.defined() ? statistics.view(-1) : statistics},
                    {"classes", layer.weight.size(0)}});
}

}  // namespace

bool LogProbProduct::takes(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
                           int64_t tokens) {
  const bool whole = in.find("rank") == nullptr;
  return whole && !labels.second.defined() && !in["exact"].toBool() &&
         in["softcap"].toDouble() == 0.0 && takes(in, layer, tokens);
}

bool LogProbProduct::takes(const CompositeCall& in, const LinearLayer& layer, int64_t tokens) {
  return ScaledExp::takes(layer) &&
         log_prob_product_pays(in.place(), std::min(tokens, layer.input.size(0)),
                               layer.input.size(1), layer.weight.size(0));
}

TileSums::TileSums(const LinearLayer& layer, int64_t tokens, bool entropy) {
  const int64_t tiles = tile_numbers(layer.weight.size(0));
  maxima = at::empty({std::min(tokens, layer.input.size(0)), tiles},
                     layer.input.options().dtype(at::kFloat));
  sums = at::empty_like(maxima);
  if (entropy) weighted = at::empty_like(maxima);
}

void logits_and_statistics(const CompositeCall& in, const LinearLayer& layer, const at::Tensor& x,
                           const TileSums& tiles, const at::Tensor& logits,
                           const at::Tensor& statistics) {
  make(in, layer, x, tiles, logits, {}, {}, statistics);
}

LogProbProduct::LogProbProduct(const CompositeCall& in, const LinearLayer& layer,
                               const Labels& labels, int64_t tokens, bool entropy,
                               at::Tensor logits)
    : in_(in),
      layer_(layer),
      labels_(labels),
      logits_(std::move(logits)),
      tiles_(layer, tokens, entropy) {
  static const Op& scores = op_named("linear_reference_of_ids_");
  const int64_t all = layer_.input.size(0);
  const auto floats = layer_.input.options().dtype(at::kFloat);
  score_ = at::empty({all}, floats);
  in_.run(scores, {{"input", layer_.input},
                   {"weight", layer_.weight},
                   {"ids", labels_.ids},
                   {"score", score_},
                   {"reference", at::empty({all}, floats)},
                   {"places", labels_.places}});
}

void LogProbProduct::numbers(const Chunk& chunk, const TokenNumbers& of_chunk,
                             const at::Tensor& statistics) const {
  const auto part = [&](const at::Tensor& whole) { return chunk.of_batch(whole, 0); };
  make(in_, layer_, part(layer_.input), tiles_, part(logits_), {part(labels_.ids), part(score_)},
       of_chunk, statistics);
}

void log_prob_gradient_by_product(const CompositeCall& in, const LinearLayer& layer,
                                  const Labels& labels, const Chunk& chunk,
                                  const at::Tensor& statistics, const TokenNumbers& derivatives,
                                  const at::Tensor& dlogits) {
  static const Op& gradient = op_named("log_prob_product_gradient_");
  const auto part = [&](const at::Tensor& whole) { return chunk.of_batch(whole, 0); };
  in.run(gradient, {{"input", part(layer.input)},
                    {"weight", layer.weight},
                    {"ids", part(labels.ids)},
                    {"statistics", part(statistics).view(-1)},
                    {"dlog_probs", part(derivatives.log_prob)},
                    {"dentropy", part(derivatives.entropy)},
                    {"dlogits", dlogits}});
}

}  // namespace liger::torch_bindings
