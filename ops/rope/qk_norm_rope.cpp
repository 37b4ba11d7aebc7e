#include "ops/rope/qk_norm.h"

#include <algorithm>
#include <bit>

#include "base/parts.h"
#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

// Threads of a head. Who has an element should have the one it turns with, in at most four packs;
// where the sizes do not allow that, each reads both from the cache.
std::vector<int64_t> threads_of_head(const Call& call) {
  const int64_t size = call["q"].last_size();
  const int64_t rotary = call["cos"].last_size();
  const int64_t packs = padded_columns(size) / 8;
  const int64_t half_of_packs = static_cast<int64_t>(std::bit_ceil(uint64_t(packs))) / 2;
  const int64_t threads = std::clamp<int64_t>(half_of_packs, 1, 32);
  std::vector<int64_t> list;
  if (size % 8 == 0 && rotary % 16 == 0) {
    const int64_t half_packs = rotary / 16;
    const int64_t paired = std::min<int64_t>(half_packs & -half_packs, 32);
    if (packs <= 4 * paired) list.push_back(paired);
  }
  if (list.empty() || list.front() != threads) list.push_back(threads);
  return list;
}

std::vector<Knobs> forward_candidates(const Call& call) {
  const int64_t heads = std::max(call["q"].sizes[1], call["k"].sizes[1]);
  if (call.on_host())
    return {{{"threads", 1}, {"rows", 4}, {"heads", std::min<int64_t>(4, heads)}}};
  std::vector<Knobs> list;
  for (const int64_t threads : threads_of_head(call)) {
    for (const auto& [block, most] : {std::pair{128, 4}, {256, 4}, {128, 8}, {128, 2}, {256, 1}}) {
      list.push_back({{"threads", threads},
                      {"rows", block / threads},
                      {"heads", std::min<int64_t>(most, heads)}});
    }
  }
  return list;
}

std::vector<Knobs> backward_candidates(const Call& call) {
  if (call.on_host()) return {{{"threads", 1}, {"rows", 1}}};
  std::vector<Knobs> list;
  for (const int64_t threads : threads_of_head(call)) {
    for (const int64_t block : {128, 64, 256}) {
      list.push_back({{"threads", threads}, {"rows", block / threads}});
    }
  }
  return list;
}

int64_t forward_blocks(const Call& call, const Knobs& knobs) {
  const int64_t heads = value_of(knobs, "heads", 1);
  const auto groups = [&](const char* x) { return parts(call[x].sizes[1], heads); };
  const int64_t tokens = call["q"].sizes[0] * call["q"].sizes[2];
  return row_blocks(tokens * (groups("q") + groups("k")), knobs);
}

QkNormForm form() {
  return {
      .name = "qk_norm_rope",
      .doc = "rms_norm of each head of q and k, then rope of both",
      .kernel = "QkNormRope",
      .source = "rope/qk_norm_rope.h",
      .full = false,
      .most_elements = 1024,  // a head is summed by one team of threads
      .sharding = Sharding::heads,
      .forward_candidates = forward_candidates,
      .forward_blocks = forward_blocks,
      .backward_candidates = backward_candidates,
      .bench = {{"heads-16-8", {{"rows", 8192}, {"size", 128}, {"inner", 16}}},
                {"heads-32-8", {{"rows", 16384}, {"size", 128}, {"inner", 32}}}},
  };
}

const Register qk_norm_rope{norm_and_turn(form())};
const Register qk_norm_rope_backward{norm_and_turn_back(form())};

}  // namespace
}  // namespace liger
