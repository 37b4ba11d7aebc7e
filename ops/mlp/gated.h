// The declaration that gated activations share.
#pragma once

#include "ops/mlp/activation.h"
#include "ops/row_knobs.h"

namespace liger {

// What an op's options make of y = down * act(gate_multiplier * min(gate, limit)) * up; up is
// between -limit and limit.
struct GateFormula {
  std::function<Activation(const Call&)> activation = {};   // empty: silu
  std::function<double(const Call&)> gate_multiplier = {};  // empty: 1
  std::function<double(const Call&)> down_multiplier = {};  // empty: 1
  std::function<double(const Call&)> alpha = {};            // of quick_gelu; empty: 1.702
  std::function<double(const Call&)> limit = {};            // 0 or empty: none
  bool lifted = false;                                      // up + 1 instead of up
};

// The GateSpec of tensors of that dtype.
Spec gate_spec(const Call& call, Dtype dtype, const GateFormula& formula);

// A number that a function gives, for a member that is a double.
Source real_source(const std::function<double(const Call&)>& number, double otherwise);

struct GatedOp {
  std::string name;
  std::string kernel;  // its structs are kernel + "Forward" and kernel + "Backward"
  std::string doc;
  bool packed = false;  // gate and up are in one tensor 'gate_up': halves, or 'interleaved'
  std::vector<Input> options = {};
  GateFormula formula = {};
  std::vector<BenchCase> bench;
  std::function<void(const Call&)> check = {};  // of the options
};

Op gated_op(const GatedOp& gated);
Op gated_backward_op(const GatedOp& gated);

// The options that several have, and what they stand for.
Input gate_multiplier();
Input down_multiplier();
Input limit();
std::function<double(const Call&)> real_option(std::string name);
void require_limit(const Call& call);  // 0 or more

}  // namespace liger
