// What the two divisions of a fused linear loss share: by chunks of tokens, and by tiles of the
// classes.
#pragma once

#include "composites/products.h"
#include "ops/linear_loss/chunking_policy.h"
#include "ops/loss/cross_entropy.h"
#include "torch_bindings/composite_call.h"

namespace liger::torch_bindings {

// Which gradients are made, and what they are multiplied with.
struct Wanted {
  bool loss = true;
  bool dinput = false;
  bool dweight = false;
  bool dbias = false;
  at::Tensor totals;       // of a reduced loss
  at::Tensor grad_output;  // one factor a token
  bool gradient() const { return dinput || dweight || dbias; }
};

struct Results {
  at::Tensor row_loss, row_z_loss, predicted, dinput, dweight, dbias;
};

struct LinearLoss {
  const CompositeCall& in;
  at::Tensor input;   // [tokens, hidden]
  at::Tensor weight;  // [classes, hidden]
  at::Tensor target;  // [tokens]
  at::Tensor totals;  // undefined: the loss is not reduced
};

// float32, or float64 for float64: what losses and sums are kept in.
at::TensorOptions exact_options(const at::TensorOptions& options);

// Room for what each token has of its own.
Results results_of(const CompositeCall& in, const at::Tensor& input, const Wanted& wanted);

inline LinearLossSizes sizes_of(const at::Tensor& input, const at::Tensor& weight) {
  return {input.size(0), input.size(1), weight.size(0), static_cast<int64_t>(input.element_size())};
}

// Of a tensor that may be undefined.
inline at::Tensor rows_of(const at::Tensor& whole, int64_t first, int64_t count) {
  return whole.defined() ? whole.narrow(0, first, count) : whole;
}

// Loss and gradients of these tokens by tiles of the classes, each taken twice.
Results loss_in_two_passes(const CompositeCall& in, const at::Tensor& input,
                           const at::Tensor& target, const Wanted& wanted,
                           const VocabularyTiles& tiles);

}  // namespace liger::torch_bindings
