#include "ops/experts/grouped.h"

#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t most_slots = 64;  // a kernel has them in registers

}  // namespace

std::vector<ExampleSize> expert_sizes() {
  return example_sizes(
      {{"num_experts", 4, "experts of a layer"}, {"slots", 2, "experts of a token"}});
}

Sample routed_sample(const Extent& e) {
  return {.input = "indices",
          .shape = {e["rows"], e["slots"]},
          .dtype = "i64",
          .below = e["num_experts"]};
}

Sample pairs_sample(std::string input, const Extent& e, int64_t below) {
  return {
      .input = std::move(input), .shape = {e["rows"] * e["slots"]}, .dtype = "i32", .below = below};
}

void require_routing(const Call& call) {
  require_dims(call, "indices", 2, "[tokens, experts of a token]");
  const int64_t slots = call["indices"].last_size();
  if (slots < 1 || slots > most_slots)
    call.refuse("indices", "has shape " + shape_text(call["indices"]),
                "[tokens, 1 to " + std::to_string(most_slots) + " experts of a token]");
}

void require_expert_rows(const Call& call, std::string_view tensor, int64_t size) {
  require_dims(call, tensor, 2, "[experts, size]");
  if (call[tensor].sizes[0] == call.integer("num_experts") && call[tensor].last_size() == size)
    return;
  call.refuse(
      tensor, "has shape " + shape_text(call[tensor]),
      "[" + std::to_string(call.integer("num_experts")) + ", " + std::to_string(size) + "]");
}

void require_pairs(const Call& call, std::string_view tensor) {
  const int64_t pairs = call["indices"].count();
  if (call[tensor].dims == 1 && call[tensor].count() == pairs) return;
  call.refuse(tensor, "has shape " + shape_text(call[tensor]),
              "[" + std::to_string(pairs) + "], one for each element of 'indices'");
}

}  // namespace liger
