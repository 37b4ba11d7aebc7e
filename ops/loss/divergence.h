// What the ops of templates/loss/divergence.h share in their declarations.
#pragma once

#include "ops/loss/cross_entropy.h"

namespace liger {

struct Divergence {
  std::string name;
  std::string doc;
  std::string kernel;  // its struct, in loss/NAME.h
  // The measure's number, a real input, or empty. `limits`: it has kernels of its own at 0 and 1.
  std::string number;
  bool limits = false;
  std::string log_target;   // the flag that says so, or empty
  bool has_labels = false;  // rows may be ignored
  std::string reduction;    // where nobody says
  std::vector<Input> options;
  std::function<void(const Call&)> check;
  bool target_is_probabilities = false;
};

// A loss of `input` and `target`, both [rows, classes], that is differentiable in `input`.
Op divergence_op(const Divergence& of);

}  // namespace liger
