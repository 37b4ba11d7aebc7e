#include <algorithm>

#include "engine/registry.h"
#include "ops/rope/qk_norm.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

int64_t longest_row(const Call& call) {
  return std::max(call["q"].sizes[1], call["k"].sizes[1]) * call["q"].last_size();
}

// Of the row, and of what it turns with.
std::vector<Knobs> forward_candidates(const Call& call) {
  return row_candidates(call, longest_row(call), 2);
}

int64_t forward_blocks(const Call& call, const Knobs& knobs) {
  return 2 * row_blocks(call["q"].sizes[0] * call["q"].sizes[2], knobs);
}

// Of x, of its gradient and what that turns with, and of the sums.
std::vector<Knobs> backward_candidates(const Call& call) {
  return partial_candidates(call, longest_row(call), 5);
}

QkNormForm form() {
  return {
      .name = "full_qk_norm_rope",
      .doc = "rms_norm of all heads of a token together, of q and of k, then rope of both",
      .kernel = "FullQkNormRope",
      .source = "rope/full_qk_norm_rope.h",
      .full = true,
      .most_elements = 16384,  // a row is held in the registers of one block
      .sharding = Sharding::tokens,
      .forward_candidates = forward_candidates,
      .forward_blocks = forward_blocks,
      .backward_candidates = backward_candidates,
      .bench = {{"heads-32-32", {{"rows", 8192}, {"size", 128}, {"inner", 32}}}},
  };
}

const Register full_qk_norm_rope{norm_and_turn(form())};
const Register full_qk_norm_rope_backward{norm_and_turn_back(form())};

}  // namespace
}  // namespace liger
