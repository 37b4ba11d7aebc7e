#include <algorithm>
#include <bit>

#include "base/parts.h"
#include "engine/registry.h"
#include "ops/norm/norm.h"
#include "ops/rope/rotary.h"

namespace liger {
namespace {

constexpr int64_t most_head_size = 1024;  // a head is summed by one team of threads

// What forward and backward are specialised for beside their knobs.
Spec head_spec(const Call& call) {
  return {{"x", call["q"].dtype},
          {"weight", call["weight_q"].dtype},
          {"angle", call["cos"].dtype},
          {"round_early", round_early(call)},
          {"head_size", call["q"].last_size()},
          {"rotary", call["cos"].last_size()},
          {"q_heads", call["q"].sizes[1]},
          {"k_heads", call["k"].sizes[1]},
          {"align_bytes", int64_t{call.align_bytes()}}};
}

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

int64_t partials_of(const Call& call) {
  return partial_rows(call, call["q"].rows(), call["q"].last_size());
}

void check(const Call& call) {
  check_rotary(call, "q", "k");
  require_vector(call, "weight_q", "q");
  require_vector(call, "weight_k", "k");
  require_same_dtype(call, "weight_q", "weight_k");
  require_eps(call);
  for (const char* tensor : {"q", "k"}) {
    const Tensor& x = call[tensor];
    if (x.sizes[1] < 1) call.refuse(tensor, "has shape " + shape_text(x), "1 head or more");
    if (x.rows() >= int64_t{1} << 31) {
      call.refuse(tensor, "has shape " + shape_text(x), "less than 2^31 heads of all tokens");
    }
  }
  if (call["q"].last_size() > most_head_size) {
    call.refuse("q", "has shape " + shape_text(call["q"]),
                "a head size up to " + std::to_string(most_head_size));
  }
}

bool has_tokens(const Call& call) { return call["q"].rows() > 0; }

KernelOf forward_kernel() {
  std::vector<Argument> arguments = {"q",
                                     "k",
                                     {"q_weight", "weight_q"},
                                     {"k_weight", "weight_k"},
                                     "cos",
                                     "sin",
                                     "q_out",
                                     "k_out",
                                     {"q_rstd", "rstd_q"},
                                     {"k_rstd", "rstd_k"},
                                     {"batch", "q.size0"},
                                     {"tokens", "q.size2"}};
  for (const char* tensor : {"q", "k", "q_out", "k_out"})
    add_head_strides(arguments, tensor, tensor);
  add_angle_strides(arguments);
  arguments.insert(arguments.end(), {"eps", "offset"});
  return {
      .name = "QkNormRopeForward",
      .source = "rope/qk_norm_rope.h",
      .when = has_tokens,
      .spec = head_spec,
      .candidates = forward_candidates,
      .blocks =
          [](const Call& call, const Knobs& knobs) {
            const int64_t heads = value_of(knobs, "heads", 1);
            const auto groups = [&](const char* x) { return parts(call[x].sizes[1], heads); };
            const int64_t tokens = call["q"].sizes[0] * call["q"].sizes[2];
            return row_blocks(tokens * (groups("q") + groups("k")), knobs);
          },
      .arguments = std::move(arguments),
  };
}

bool wants_dx(const Call& call) { return call.wants_grad(0) || call.wants_grad(1); }
bool wants_dweight(const Call& call) { return call.wants_grad(2) || call.wants_grad(3); }

KernelOf backward_kernel() {
  const auto rows = [](const char* x) { return [x](const Call& call) { return call[x].rows(); }; };
  std::vector<Argument> arguments = {"dq_out",
                                     "dk_out",
                                     "q",
                                     "k",
                                     {"q_weight", "weight_q"},
                                     {"k_weight", "weight_k"},
                                     "cos",
                                     "sin",
                                     {"q_rstd", "rstd_q"},
                                     {"k_rstd", "rstd_k"},
                                     "dq",
                                     "dk",
                                     {"q_partials", "partials_q"},
                                     {"k_partials", "partials_k"},
                                     {"tokens", "q.size2"},
                                     {"q_rows", rows("q")},
                                     {"k_rows", rows("k")},
                                     {"partial_rows", partials_of}};
  for (const char* tensor : {"dq_out", "dk_out", "q", "k", "dq", "dk"})
    add_head_strides(arguments, tensor, tensor);
  add_angle_strides(arguments);
  arguments.emplace_back("offset");
  return {
      .name = "QkNormRopeBackward",
      .source = "rope/qk_norm_rope.h",
      .when = has_tokens,
      .spec =
          [](const Call& call) {
            Spec spec = head_spec(call);
            spec.insert(spec.end(),
                        {{"want_dx", wants_dx(call)}, {"want_dweight", wants_dweight(call)}});
            return spec;
          },
      .candidates = backward_candidates,
      .blocks = [](const Call& call,
                   const Knobs& knobs) { return 2 * row_blocks(partials_of(call), knobs); },
      .arguments = std::move(arguments),
  };
}

Output made_like(std::string name, std::string of, bool (*when)(const Call&), bool keeps_layout) {
  return {std::move(name),
          [of, when, keeps_layout](const Call& call) {
            if (when && !when(call)) return empty();
            return keeps_layout ? preserve(of) : like(of);
          },
          [of](const Call& call) { return call[of].dtype; }};
}

Output rstd_of(std::string name, std::string of) {
  return {std::move(name), [of](const Call&) { return rows_of(of); },
          [of](const Call& call) { return arithmetic(call[of].dtype); }, false};
}

Temporary partials(std::string name) {
  return {std::move(name), [](const Call& call) -> int64_t {
            if (!wants_dweight(call)) return 0;
            const Tensor& q = call["q"];
            return partials_of(call) * padded_columns(q.last_size()) *
                   size_bytes(arithmetic(q.dtype));
          }};
}

// As many key heads as most models have.
int64_t key_heads(int64_t heads) { return heads > 8 ? 8 : (heads + 1) / 2; }

std::vector<Sample> samples(const Extent& e) {
  return {{.input = "q", .shape = {1, e["inner"], e["rows"], e["size"]}, .heads_second = true},
          {.input = "k",
           .shape = {1, key_heads(e["inner"]), e["rows"], e["size"]},
           .heads_second = true},
          {.input = "weight_q", .shape = {e["size"]}},
          {.input = "weight_k", .shape = {e["size"]}},
          {.input = "cos", .shape = {1, e["rows"], e["size"]}},
          {.input = "sin", .shape = {1, e["rows"], e["size"]}}};
}

const Register qk_norm_rope{Op{
    .name = "qk_norm_rope",
    .doc = "rms_norm of each head of q and k, then rope of both",
    .inputs = {strided("q"), strided("k"), dense("weight_q"), dense("weight_k"),
               of_tokens(strided("cos")), of_tokens(strided("sin")), real("eps", "1e-06"),
               real("offset", "0.0"), casting_mode()},
    .outputs = {made_like("q_out", "q", nullptr, true), made_like("k_out", "k", nullptr, true),
                rstd_of("rstd_q", "q"), rstd_of("rstd_k", "k")},
    .check = check,
    .kernels = {forward_kernel()},
    .gradient = {.backward = "qk_norm_rope_backward",
                 .saved = {"q", "k", "weight_q", "weight_k", "cos", "sin", "rstd_q", "rstd_k"},
                 .of = {{"q", "dq", {"q_out"}},
                        {"k", "dk", {"k_out"}},
                        {"weight_q", "dweight_q", {"q_out"}},
                        {"weight_k", "dweight_k", {"k_out"}}}},
    .sharding = Sharding::heads,
    .example = samples,
    .bench = {{"heads-16-8", {{"rows", 8192}, {"size", 128}, {"inner", 16}}},
              {"heads-32-8", {{"rows", 16384}, {"size", 128}, {"inner", 32}}}},
}};

const Register qk_norm_rope_backward{Op{
    .name = "qk_norm_rope_backward",
    .doc = "gradients of qk_norm_rope: those of the norm, of what the transposed rotation gives",
    .internal = true,
    .inputs = {strided("dq_out"), strided("dk_out"), strided("q"), strided("k"), dense("weight_q"),
               dense("weight_k"), of_tokens(strided("cos")), of_tokens(strided("sin")),
               dense("rstd_q"), dense("rstd_k"), real("eps", "1e-06"), real("offset", "0.0"),
               casting_mode(), mask("output_mask", 4)},
    .outputs = {made_like("dq", "q", wants_dx, true), made_like("dk", "k", wants_dx, true),
                made_like("dweight_q", "weight_q", wants_dweight, false),
                made_like("dweight_k", "weight_k", wants_dweight, false)},
    .temporaries = {partials("partials_q"), partials("partials_k")},
    .check =
        [](const Call& call) {
          check(call);
          for (const auto& [x, dy] : {std::pair{"q", "dq_out"}, {"k", "dk_out"}}) {
            require_same_shape(call, x, dy);
            require_same_dtype(call, x, dy);
          }
        },
    .kernels = {backward_kernel(),
                column_sum({{"partials_q", "dweight_q",
                             [](const Call& call) { return call["weight_q"].dtype; }},
                            {"partials_k", "dweight_k",
                             [](const Call& call) { return call["weight_k"].dtype; }}},
                           "q", wants_dweight)},
    .sharding = Sharding::heads,
    .example =
        [](const Extent& e) {
          std::vector<Sample> list = {{.input = "dq_out",
                                       .shape = {1, e["inner"], e["rows"], e["size"]},
                                       .heads_second = true},
                                      {.input = "dk_out",
                                       .shape = {1, key_heads(e["inner"]), e["rows"], e["size"]},
                                       .heads_second = true}};
          for (const Sample& sample : samples(e)) list.push_back(sample);
          list.insert(
              list.end(),
              {{.input = "rstd_q", .shape = {1, e["inner"], e["rows"]}, .dtype = "arithmetic"},
               {.input = "rstd_k",
                .shape = {1, key_heads(e["inner"]), e["rows"]},
                .dtype = "arithmetic"},
               {.input = "eps", .value = 1e-6},
               {.input = "offset", .value = 0.0},
               {.input = "casting_mode", .value = 0},
               {.input = "output_mask", .value = 15}});
          return list;
        },
}};

}  // namespace
}  // namespace liger
