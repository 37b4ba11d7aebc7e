#include <algorithm>

#include "base/parts.h"
#include "engine/registry.h"
#include "ops/experts/grouped.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t list_pairs = 1024;
constexpr int64_t most_pairs = int64_t{1} << 30;
constexpr int64_t most_experts = (int64_t{1} << 22) - 2;  // a key holds one, and a place in a list

int64_t pairs_of(const Call& call) { return call["indices"].count(); }
int64_t lists_of(const Call& call) {
  return std::max<int64_t>(parts(pairs_of(call), list_pairs), 1);
}

void check(const Call& call) {
  require_routing(call);
  if (pairs_of(call) > most_pairs)
    call.refuse("indices", "has " + std::to_string(pairs_of(call)) + " elements",
                "up to " + std::to_string(most_pairs));
  const int64_t experts = call.integer("num_experts");
  if (experts < 1 || experts > most_experts)
    call.refuse("num_experts", "is " + std::to_string(experts),
                "1 to " + std::to_string(most_experts));
}

std::vector<Knobs> threads(const Call& call) {
  return {{{"threads", call.on_host() ? 1 : list_pairs}}};
}
int64_t blocks(const Call& call, const Knobs&) { return lists_of(call); }

Spec lists_spec(const Call& call) {
  return {{"index", call["indices"].dtype}, {"list_pairs", list_pairs}};
}

KernelOf lists_kernel() {
  return {.name = "ExpertLists",
          .source = "experts/group_by_expert.h",
          .spec = lists_spec,
          .candidates = threads,
          .blocks = blocks,
          .arguments = {"indices",
                        "keys",
                        "counts",
                        {"fault", FaultOf{"indices"}},
                        {"pairs", pairs_of},
                        "num_experts",
                        {"lists", lists_of}}};
}

KernelOf starts_kernel() {
  return {.name = "ExpertStarts",
          .source = "experts/group_by_expert.h",
          .spec = [](const Call&) -> Spec { return {}; },
          .candidates = threads,
          .blocks = [](const Call&, const Knobs&) -> int64_t { return 1; },
          .arguments = {"counts", "ends", "num_experts", {"lists", lists_of}}};
}

KernelOf places_kernel() {
  return {.name = "ExpertPlaces",
          .source = "experts/group_by_expert.h",
          .spec = lists_spec,
          .candidates = threads,
          .blocks = blocks,
          .arguments = {"indices",
                        "keys",
                        {"starts", "counts"},
                        "order",
                        "tokens",
                        "places",
                        {"pairs", pairs_of},
                        "num_experts",
                        {"lists", lists_of},
                        {"slots", "indices.size1"}}};
}

Output of_pairs(std::string name) {
  return {std::move(name),
          [](const Call&) { return sized({size_of("indices", 0) * size_of("indices", 1)}); },
          [](const Call&) { return Dtype::i32; }, false};
}

const Register group_by_expert{Op{
    .name = "group_by_expert",
    .doc = "the pairs of tokens and experts in the order of the experts, for one expert in that of "
           "the tokens: the pair and the token of each place, the place of each pair, and where "
           "each expert's places end; an index that is the number of experts is nobody's",
    .internal = true,
    .inputs = {dense("indices", {Dtype::i64, Dtype::i32}), integer("num_experts", 1)},
    .outputs = {of_pairs("order"),
                of_pairs("tokens"),
                of_pairs("places"),
                {"ends", [](const Call& call) { return sized({call.integer("num_experts")}); },
                 [](const Call&) { return Dtype::i32; }, false}},
    .temporaries =
        {{"keys",
          [](const Call& call) { return call.on_host() ? 0 : lists_of(call) * list_pairs * 4; }},
         {"counts",
          [](const Call& call) { return (call.integer("num_experts") + 1) * lists_of(call) * 4; }}},
    .check = check,
    .kernels = {lists_kernel(), starts_kernel(), places_kernel()},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {routed_sample(e),
              {.input = "num_experts", .value = static_cast<double>(e["num_experts"])}};
    },
    .sizes = expert_sizes(),
    .bench = {{"T8192-E128-k8", {{"rows", 8192}, {"num_experts", 128}, {"slots", 8}}},
              {"T8192-E8-k2", {{"rows", 8192}, {"num_experts", 8}, {"slots", 2}}}},
}};

}  // namespace
}  // namespace liger
