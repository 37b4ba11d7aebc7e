// The gate of experts, as options of an op.
#pragma once

#include "engine/op.h"

namespace liger {

// act(gate) * up, gate at most `limit` and up within it, and with `lifted` up + 1 in place of up.
std::vector<Input> expert_gate_options();
void check_expert_gate(const Call& call);

// The GateSpec of tensors of that dtype.
Spec expert_gate_spec(const Call& call, Dtype dtype);

}  // namespace liger
