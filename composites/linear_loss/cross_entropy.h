// What the two divisions of a fused linear cross entropy share: by chunks of tokens, and by tiles
// of the classes.
#pragma once

#include "composites/linear_loss/linear_loss.h"

namespace liger::torch_bindings {

// What is made, and what gradients are multiplied with.
struct Wanted {
  bool loss = true;
  WantedGradients gradients;
  at::Tensor totals;       // of a reduced loss
  at::Tensor grad_output;  // one factor a token
};

struct Results {
  at::Tensor row_loss, row_z_loss, predicted;
  LayerGradients gradients;
};

// Room for what each token has of its own.
Results results_of(const CompositeCall& in, const at::Tensor& input, const Wanted& wanted);

// Loss and gradients of these tokens by tiles of the classes, each taken twice.
Results loss_in_two_passes(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
                           const Wanted& wanted, const LossDivision& division);

}  // namespace liger::torch_bindings
