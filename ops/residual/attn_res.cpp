#include <algorithm>

#include "base/parts.h"
#include "base/text.h"
#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t most_depth = 1024;

Input keeps_scores() { return flag("keep_scores"); }

int64_t depth_of(const Call& call) { return call["v"].sizes[0]; }
int64_t hidden_of(const Call& call) { return call["v"].last_size(); }
int64_t tokens_of(const Call& call) { return call["v"].sizes[1]; }

void check(const Call& call) {
  const Tensor& v = call["v"];
  if (v.dims != 3 || v.sizes[0] < 1 || v.sizes[0] > most_depth || v.last_size() < 1) {
    call.refuse(
        "v", "has shape " + shape_text(v),
        fmt::format("[N, tokens, D] with 1 to {} states N of a token, D of 1 or more", most_depth));
  }
  require_vector(call, "w_query", "v");
  require_vector(call, "w_norm", "v");
  require_eps(call);
}

Spec dtypes(const Call& call) {
  return {{"v", call["v"].dtype}, {"query", call["w_query"].dtype}, {"norm", call["w_norm"].dtype}};
}

// 32-bit words of a thread for eight elements.
int64_t pack_words(const Call& call) { return 2 * size_bytes(call["v"].dtype); }

// States that a token's threads keep in registers at once: two packs of each in up to 64 registers,
// and fewer where a row of many packs leaves a thread few. Chunks are as even as they can be.
// They fix the order of the sum, so they depend on sizes alone.
int64_t chunk_of(const Call& call) {
  if (call.on_host() || hidden_of(call) > 16384) return 0;
  const int64_t room = hidden_of(call) <= 8192 ? 64 : 24;
  const int64_t most = std::max<int64_t>(1, room / (2 * pack_words(call)));
  const int64_t chunks = parts(depth_of(call), most);
  return parts(depth_of(call), chunks);
}

std::vector<Knobs> forward_candidates(const Call& call) {
  const int64_t held = chunk_of(call) * pack_words(call);  // and the mixture and the key's weight
  return row_candidates(call, hidden_of(call), held > 0 ? static_cast<int>(held / 8 + 2) : 0);
}

const Register attn_res{Op{
    .name = "attn_res",
    .doc = "softmax over depth n of scores of v[n], normalised, with a query; "
           "y = sum of softmax[n] * v[n]",
    .inputs = {strided("v"), dense("w_query"), dense("w_norm"), real("eps", "1e-06"),
               keeps_scores()},
    .outputs =
        {{"y",
          [](const Call&) {
            return sized({size_of("v", 1), size_of("v", 2)});
          },
          [](const Call& call) { return call["v"].dtype; }},
         {"score",
          [](const Call& call) { return call.flag(keeps_scores().name) ? rows_of("v") : empty(); },
          [](const Call& call) { return arithmetic(call["v"].dtype); }, false},
         {"rstd",
          [](const Call& call) { return call.flag(keeps_scores().name) ? rows_of("v") : empty(); },
          [](const Call& call) { return arithmetic(call["v"].dtype); }, false}},
    .check = check,
    .kernels = {{.name = "AttnResForward",
                 .source = "residual/attn_res.h",
                 .spec = [](const Call& call) -> Spec {
                   Spec spec = dtypes(call);
                   spec.insert(spec.end(), {{"depth", depth_of(call)},
                                            {"hidden", hidden_of(call)},
                                            {"align_bytes", int64_t{call.align_bytes()}},
                                            {"chunk", chunk_of(call)}});
                   return spec;
                 },
                 .candidates = forward_candidates,
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(tokens_of(call), knobs); },
                 .arguments = {"v",
                               {"query", "w_query"},
                               {"norm", "w_norm"},
                               "y",
                               "score",
                               "rstd",
                               {"tokens", tokens_of},
                               {"v_depth_stride", "v.stride0"},
                               {"v_stride", "v.stride1"},
                               "eps"}}},
    .gradient = {.backward = "attn_res_backward",
                 .saved = {"v", "w_query", "w_norm", "score", "rstd"},
                 .of = {{"v", "dv"}, {"w_query", "dw_query"}, {"w_norm", "dw_norm"}},
                 .needs_grad_flag = keeps_scores().name},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "v", .shape = {e["depth"], e["rows"], e["size"]}},
              {.input = "w_query", .shape = {e["size"]}},
              {.input = "w_norm", .shape = {e["size"]}}};
    },
    .sizes = example_sizes({{"depth", 8, "states of a token"}}),
    .bench = {{"depth-8", {{"depth", 8}, {"rows", 4096}, {"size", 4096}}},
              {"depth-16", {{"depth", 16}, {"rows", 4096}, {"size", 2048}}}},
}};

bool wants_dweight(const Call& call) { return call.wants_grad(1) || call.wants_grad(2); }

int64_t partials_of(const Call& call) {
  return partial_rows(call, tokens_of(call), hidden_of(call));
}

// Bytes on chip of one token, and how many tokens a block may hold: two where they fit, so that
// one is on its way while the other is worked on.
int64_t token_bytes(const Call& call, const Knobs& knobs) {
  const int64_t threads = value_of(knobs, "threads", 1);
  const int64_t packs = packs_of(hidden_of(call));
  const int64_t slots = parts(packs, threads);
  return (depth_of(call) + 1) * slots * threads * value_of(knobs, "rows", 1) * 8 *
         size_bytes(call["v"].dtype);
}

int64_t most_shared_bytes(const Place& place) {
  if (place.backend != Backend::cuda) return 48 << 10;
  if (place.capability == 90 || place.capability == 100) return 200 << 10;
  return place.capability == 80 ? 140 << 10 : 80 << 10;
}

int64_t stages_of(const Call& call) {
  if (call.on_host() || hidden_of(call) > 8192 || depth_of(call) > 32) return 0;
  const int64_t bytes =
      (depth_of(call) + 1) * padded_columns(hidden_of(call)) * size_bytes(call["v"].dtype);
  return std::min<int64_t>(most_shared_bytes(call.place()) / bytes, 2);
}

// Those that have room for the stages.
std::vector<Knobs> backward_candidates(const Call& call) {
  const int64_t stages = stages_of(call);
  auto list = partial_candidates(call, hidden_of(call), stages > 0 ? 3 : 0);
  if (stages == 0) return list;
  std::erase_if(list, [&](const Knobs& knobs) {
    return stages * token_bytes(call, knobs) > most_shared_bytes(call.place()) + (8 << 10);
  });
  if (list.empty()) {
    const int64_t packs = packs_of(hidden_of(call));
    const int64_t threads = packs <= 32 ? 32 : (packs / 2 + 31) / 32 * 32;
    list.push_back({{"threads", threads}, {"rows", 1}});
  }
  return list;
}

Output weight_gradient(std::string name, std::string weight) {
  return {std::move(name),
          [weight](const Call& call) { return wants_dweight(call) ? like(weight) : empty(); },
          [weight](const Call& call) { return call[weight].dtype; }};
}

const Register attn_res_backward{Op{
    .name = "attn_res_backward",
    .doc = "gradients of attn_res",
    .internal = true,
    .inputs = {strided("dy"), strided("v"), dense("w_query"), dense("w_norm"), dense("score"),
               dense("rstd"), real("eps", "1e-06"), mask("output_mask", 3)},
    .outputs = {{"dv", [](const Call& call) { return call.wants_grad(0) ? like("v") : empty(); },
                 [](const Call& call) { return call["v"].dtype; }},
                weight_gradient("dw_query", "w_query"),
                weight_gradient("dw_norm", "w_norm")},
    .temporaries = {{"partials",
                     [](const Call& call) -> int64_t {
                       if (!wants_dweight(call)) return 0;
                       return partials_of(call) * padded_columns(hidden_of(call)) *
                              size_bytes(arithmetic(call["v"].dtype));
                     }}},
    .check =
        [](const Call& call) {
          check(call);
          require_same_dtype(call, "v", "dy");
          const int64_t tokens = tokens_of(call);
          const Tensor& dy = call["dy"];
          if (dy.dims != 2 || dy.sizes[0] != tokens || dy.sizes[1] != hidden_of(call)) {
            call.refuse("dy", "has shape " + shape_text(dy),
                        "the shape of 'v' but for its first size");
          }
          for (const char* kept : {"score", "rstd"}) {
            if (call[kept].count() == tokens * depth_of(call)) continue;
            call.refuse(kept, "has shape " + shape_text(call[kept]),
                        "one element for each row of 'v', which the forward keeps where it is "
                        "asked to");
          }
        },
    .kernels = {{.name = "AttnResBackward",
                 .source = "residual/attn_res.h",
                 .when = [](const Call& call) { return tokens_of(call) > 0; },
                 .spec = [](const Call& call) -> Spec {
                   Spec spec = dtypes(call);
                   spec.insert(spec.end(), {{"dy", call["dy"].dtype},
                                            {"want_dv", call.wants_grad(0)},
                                            {"want_dweight", wants_dweight(call)},
                                            {"depth", depth_of(call)},
                                            {"hidden", hidden_of(call)},
                                            {"align_bytes", int64_t{call.align_bytes()}},
                                            {"stages", stages_of(call)}});
                   return spec;
                 },
                 .candidates = backward_candidates,
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(partials_of(call), knobs); },
                 .shared_bytes =
                     [](const Call& call, const Knobs& knobs) {
                       return static_cast<int>(stages_of(call) * token_bytes(call, knobs));
                     },
                 .arguments = {"dy",
                               "v",
                               {"query", "w_query"},
                               {"norm", "w_norm"},
                               "score",
                               "rstd",
                               "dv",
                               "partials",
                               {"tokens", tokens_of},
                               {"partial_rows", partials_of},
                               {"dy_stride", "dy.stride0"},
                               {"v_depth_stride", "v.stride0"},
                               {"v_stride", "v.stride1"}}},
                {.name = "AttnResWeights",
                 .source = "residual/attn_res.h",
                 .when = wants_dweight,
                 .spec = [](const Call& call) -> Spec {
                   return {{"partial", arithmetic(call["v"].dtype)},
                           {"query", call["w_query"].dtype},
                           {"norm", call["w_norm"].dtype},
                           {"hidden", hidden_of(call)}};
                 },
                 .candidates = [](const Call& call) -> std::vector<Knobs> {
                   return {{{"groups", hidden_of(call) < 4096 ? 128 : 32}}};
                 },
                 .blocks = [](const Call& call,
                              const Knobs&) { return parts(hidden_of(call), 32); },
                 .threads = [](const Knobs& knobs) { return 4 * value_of(knobs, "groups", 1); },
                 .arguments = {"partials",
                               {"query", "w_query"},
                               {"norm", "w_norm"},
                               {"dquery", "dw_query"},
                               {"dnorm", "dw_norm"},
                               {"partial_rows", partials_of}}}},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "dy", .shape = {e["rows"], e["size"]}},
              {.input = "v", .shape = {e["depth"], e["rows"], e["size"]}},
              {.input = "w_query", .shape = {e["size"]}},
              {.input = "w_norm", .shape = {e["size"]}},
              {.input = "score", .shape = {e["depth"], e["rows"]}, .dtype = "arithmetic"},
              {.input = "rstd", .shape = {e["depth"], e["rows"]}, .dtype = "arithmetic"},
              {.input = "eps", .value = 1e-6},
              {.input = "output_mask", .value = 7}};
    },
    .sizes = example_sizes({{"depth", 8, "states of a token"}}),
}};

}  // namespace
}  // namespace liger
