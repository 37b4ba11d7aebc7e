// What ops over square matrices of a causal attention share in their declarations.
#pragma once

#include "engine/op.h"

namespace liger {

// A member of a kernel's struct, and the tensor whose rows it reads.
struct Read {
  std::string member;
  std::string tensor;
};

// A kernel of attention/causal.h over the rows of the tensors read. `made` is what it writes: empty
// for one that works in place.
KernelOf causal_kernel(std::string name, std::vector<Read> read, std::string made,
                       std::vector<Argument> others = {});

// Raises unless the tensor is [..., N, N].
void require_square(const Call& call, std::string_view tensor);

Output causal_output(std::string name, std::string input);

// Matrices of the example, one for each of the names.
std::vector<Sample> causal_samples(const Extent& extent, std::vector<const char*> names);

}  // namespace liger
