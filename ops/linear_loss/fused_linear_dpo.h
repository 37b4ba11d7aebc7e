// The losses of fused_linear_dpo, in the order of its choices.
#pragma once

#include <cstdint>

namespace liger {

enum class DpoLoss : int64_t {
  sigmoid,
  hinge,
  ipo,
  exo_pair,
  nca_pair,
  robust,
  bco_pair,
  sppo_hard,
  apo_zero,
  apo_down,
  discopop,
};

}  // namespace liger
