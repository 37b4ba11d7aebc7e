// The gradient of a layer's weight, added up over chunks of tokens.
#pragma once

#include "composites/linear_loss/linear_loss.h"

namespace liger::torch_bindings {

class WeightSum {
 public:
  WeightSum(const CompositeCall& in, const at::Tensor& weight, SumOf sum);

  // Adds dlogits.T @ x.
  void add(const at::Tensor& dlogits, const at::Tensor& x, bool is_first, bool is_last);

  // In the weight's dtype; zeros if nothing was added.
  at::Tensor result();

 private:
  void add_split(const at::Tensor& dlogits, const at::Tensor& x, bool is_first, bool is_last);

  const CompositeCall& in_;
  const at::Tensor& weight_;
  const SumOf of_;
  at::Tensor sum_;
  at::Tensor low_, product_;  // of a split sum: its lower bits, and a tile of classes in float32
};

}  // namespace liger::torch_bindings
