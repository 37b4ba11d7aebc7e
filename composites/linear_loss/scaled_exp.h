// The product that writes exponentials instead of logits, chunk by chunk.
#pragma once

#include <ATen/core/Tensor.h>

#include "composites/linear_loss/linear_loss.h"

namespace liger::torch_bindings {

class ScaledExp {
 public:
  // Whether the tensors are what the product takes. Options are the loss's to judge, sizes and
  // device divide()'s.
  static bool takes(const LinearLayer& layer);

  // Chunks of at most `chunk` of these units.
  ScaledExp(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
            const Units& units, int64_t chunk, bool with_gradient);

  // e of a chunk, in rows that the product can write; undefined where no gradient is wanted.
  at::Tensor buffer() const;

  // Of a chunk's tokens, whose rows of the input are x, the losses and, with a gradient, e. Returns
  // what makes dW of it, e^T times that, until gradient() is called.
  at::Tensor chunk(const Chunk& chunk, const at::Tensor& x, const at::Tensor& e,
                   const ExponentialLosses& losses) const;

  // Multiplies each token's gradient of the last chunk: the number may come late, because it only
  // scales a row of the products that follow. Undefined: with nothing.
  void weigh(const at::Tensor& x, const at::Tensor& weights) const;

  // dx of the last chunk.
  void gradient(const at::Tensor& e, const at::Tensor& dx) const;

 private:
  const CompositeCall& in_;
  const LinearLayer& layer_;
  const at::Tensor ids_;
  const int64_t chunk_;  // units
  const int64_t chunk_tokens_;
  at::Tensor totals_;
  at::Tensor score_, reference_, sums_, maxima_, factor_, scratch_, scaled_input_, wanted_;
};

}  // namespace liger::torch_bindings
