// What ops that make probabilities of a row share in their declarations: y of x's shape, and a
// backward that reads y.
#pragma once

#include "engine/op.h"

namespace liger {

struct Probabilities {
  std::string name;     // of the op, and of its file in templates/softmax/
  std::string kernels;  // KERNELSForward and KERNELSBackward
  std::string doc;
  std::string backward_doc;
  int64_t fewest_threads;  // that take a row
  bool forward_may_keep;   // it has registers to spare for some of the row
};

Op forward_of(const Probabilities& probabilities);
Op backward_of(const Probabilities& probabilities);

}  // namespace liger
