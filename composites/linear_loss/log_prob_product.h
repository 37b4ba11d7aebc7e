// Log-probabilities and entropies from the product that makes the logits, which writes none:
// templates/linear_loss/log_prob_product.h. Where it takes a layer, the gradient is written by the
// same product.
#pragma once

#include "composites/linear_loss/log_prob_loss.h"

namespace liger::torch_bindings {

// What a product says of each tile, of as many rows as a chunk has.
struct TileSums {
  TileSums() = default;
  TileSums(const LinearLayer& layer, int64_t tokens, bool entropy);

  at::Tensor maxima, sums, weighted;
};

class LogProbProduct {
 public:
  // Of chunks of `tokens`.
  static bool takes(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
                    int64_t tokens);
  // The same of any numbers that are made of logits, for the layer alone.
  static bool takes(const CompositeCall& in, const LinearLayer& layer, int64_t tokens);

  // Of chunks of at most `tokens` of the layer's. `logits`: room for those of all tokens, or
  // undefined.
  LogProbProduct(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
                 int64_t tokens, bool entropy, at::Tensor logits);

  // Writes the numbers of the chunk's tokens and, where that is defined, their statistics.
  void numbers(const Chunk& chunk, const TokenNumbers& of_chunk,
               const at::Tensor& statistics) const;

 private:
  const CompositeCall& in_;
  const LinearLayer& layer_;
  const Labels& labels_;
  const at::Tensor logits_;
  const TileSums tiles_;
  at::Tensor score_;
};

// Makes the logits of these rows of a layer's input, and their statistics.
void logits_and_statistics(const CompositeCall& in, const LinearLayer& layer, const at::Tensor& x,
                           const TileSums& tiles, const at::Tensor& logits,
                           const at::Tensor& statistics);

// Writes the gradient of a chunk's logits, of which nobody has made any.
void log_prob_gradient_by_product(const CompositeCall& in, const LinearLayer& layer,
                                  const Labels& labels, const Chunk& chunk,
                                  const at::Tensor& statistics, const TokenNumbers& derivatives,
                                  const at::Tensor& dlogits);

}  // namespace liger::torch_bindings
