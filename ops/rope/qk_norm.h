// What ops that norm q and k and then rotate both share in their declarations.
#pragma once

#include "engine/op.h"

namespace liger {

// What the norms are of, and the kernels for that.
struct QkNormForm {
  std::string name;
  std::string doc;
  std::string kernel;  // before "Forward" or "Backward"
  std::string source;
  bool full;              // of all heads of a token together, else of each head by itself
  int64_t most_elements;  // that are normed together
  Sharding sharding;
  std::function<std::vector<Knobs>(const Call&)> forward_candidates;
  std::function<int64_t(const Call&, const Knobs&)> forward_blocks;
  std::function<std::vector<Knobs>(const Call&)> backward_candidates;
  std::vector<BenchCase> bench;
};
Op norm_and_turn(const QkNormForm& form);
Op norm_and_turn_back(const QkNormForm& form);

}  // namespace liger
