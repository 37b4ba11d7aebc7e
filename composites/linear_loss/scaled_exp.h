// The fused linear cross entropy's product that writes exponentials, chunk by chunk.
#pragma once

#include <ATen/core/Tensor.h>

#include "composites/linear_loss/linear_loss.h"

namespace liger::torch_bindings {

class ScaledExp {
 public:
  // Whether the loss is a plain one, of sizes for which this pays where it runs.
  static bool serve(const LinearLoss& loss, int64_t chunk);

  ScaledExp(const LinearLoss& loss, int64_t chunk, bool with_gradient);

  // e of a chunk, in rows that the product can write; undefined where no gradient is wanted.
  at::Tensor buffer() const;

  // Of `count` tokens from `first` on the losses and, with a gradient, e. Returns what makes dW of
  // it, e^T times that, until gradient() is called.
  at::Tensor chunk(int64_t first, int64_t count, const at::Tensor& e, const at::Tensor& row_loss,
                   const at::Tensor& row_z_loss) const;

  // dx of the last chunk.
  void gradient(const at::Tensor& e, const at::Tensor& dx) const;

 private:
  const LinearLoss loss_;
  const int64_t chunk_;
  at::Tensor score_, reference_, sums_, maxima_, factor_, scratch_, scaled_input_, wanted_;
};

}  // namespace liger::torch_bindings
