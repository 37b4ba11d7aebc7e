// Gradients as outputs of a backward, or of a loss that makes them as it reads.
#pragma once

#include "engine/op.h"

namespace liger {

// That of the tensor `of`, where it is there and bit `bit` of the mask asks for it; else nothing.
// It has the dtype of `typed_as`.
Output gradient_output(std::string name, std::string of, std::string typed_as, int bit,
                       std::string mask_name = "output_mask");

}  // namespace liger
