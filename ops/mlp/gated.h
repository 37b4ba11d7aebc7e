// The declaration that gated activations share.
#pragma once

#include "ops/row_knobs.h"

namespace liger {

struct GatedKernel {
  std::string kernel;  // its structs are kernel + "Forward" and kernel + "Backward"
  std::function<bool(const Call&)> when;
};

Op gated_op(std::string name, std::string doc, std::string source, std::vector<Input> flags,
            const std::vector<GatedKernel>& variants);
Op gated_backward_op(std::string name, std::string source, std::vector<Input> flags,
                     const std::vector<GatedKernel>& variants);

}  // namespace liger
