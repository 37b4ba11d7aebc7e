// What the two divisions of a fused linear loss share: by chunks of tokens, and by tiles of the
// classes.
#pragma once

#include "ops/chunk_law.h"
#include "ops/cross_entropy.h"
#include "torch_bindings/inputs.h"

namespace liger::torch_bindings {

// Which gradients are made, and what they are multiplied with.
struct Wanted {
  bool loss = true;
  bool dinput = false;
  bool dweight = false;
  bool dbias = false;
  at::Tensor totals;    // of a reduced loss
  at::Tensor upstream;  // one factor a token
  bool gradient() const { return dinput || dweight || dbias; }
};

struct Results {
  at::Tensor row_loss, row_z_loss, predicted, dinput, dweight, dbias;
};

struct LinearLoss {
  const Inputs& in;
  at::Tensor input;   // [tokens, hidden]
  at::Tensor weight;  // [classes, hidden]
  at::Tensor target;  // [tokens]
  at::Tensor totals;  // undefined: the loss is not reduced
};

// float32, or float64 for float64: what losses and sums are kept in.
at::TensorOptions exact_options(const at::TensorOptions& options);

// Room for what each token has of its own.
Results results_of(const Inputs& in, const at::Tensor& input, const Wanted& wanted);

inline c10::IValue or_none(const at::Tensor& tensor) {
  return tensor.defined() ? c10::IValue(tensor) : c10::IValue();
}

inline LinearLossSizes sizes_of(const at::Tensor& input, const at::Tensor& weight) {
  return {input.size(0), input.size(1), weight.size(0), static_cast<int64_t>(input.element_size())};
}

// The loss's options, as all of its parts take them after their own inputs.
template <class Values>
void append_options(Values& values, const Inputs& in) {
  static const std::vector<Input> options = cross_entropy_options();
  for (const Input& option : options) values.push_back(in[option.name]);
}

// sum = left @ right, or sum += left @ right; the sum may be of a wider type.
void add_product(at::Tensor& sum, const at::Tensor& left, const at::Tensor& right, bool is_first);

// Loss and gradients of these tokens by tiles of the classes, each taken twice.
Results loss_in_two_passes(const Inputs& in, const at::Tensor& input, const at::Tensor& target,
                           const Wanted& wanted, const VocabularyTiles& tiles);

// The kernels of it, for ahead-of-time compiling.
void parts_of_two_passes(const Inputs& in, const VocabularyTiles& tiles, Place place, bool reduced,
                         bool backward);

}  // namespace liger::torch_bindings
