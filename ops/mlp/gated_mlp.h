// What the declarations of whole gated MLPs share.
#pragma once

#include "engine/op.h"

namespace liger {

// x, the weights, and the options of the gate.
std::vector<Input> mlp_inputs();
std::vector<Input> mlp_gate_options();
void check_mlp(const Call& call);

// dx and those of the weights, of which the mask's bits say which are wanted.
std::vector<Output> mlp_gradients();

std::vector<Sample> mlp_example(const Extent& e);
std::vector<Sample> mlp_gate_samples();

}  // namespace liger
