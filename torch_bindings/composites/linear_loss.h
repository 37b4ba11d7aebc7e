// What the two divisions of a fused linear loss share: by chunks of tokens, and by tiles of the
// classes.
#pragma once

#include "ops/chunk_law.h"
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

inline c10::IValue or_none(const at::Tensor& tensor) {
  return tensor.defined() ? c10::IValue(tensor) : c10::IValue();
}

inline LinearLossSizes sizes_of(const at::Tensor& input, const at::Tensor& weight) {
  return {input.size(0), input.size(1), weight.size(0), static_cast<int64_t>(input.element_size())};
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
