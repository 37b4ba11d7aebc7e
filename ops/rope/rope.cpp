#include <algorithm>

#include "engine/registry.h"
#include "ops/rope/rotary.h"

namespace liger {
namespace {

// Head and rotary sizes come with q, k, cos and sin; a missing k has no heads.
Spec rope_spec(const Call& call, bool inverse, std::string_view q, std::string_view k) {
  return {{"x", call[q].dtype},
          {"angle", call["cos"].dtype},
          {"inverse", inverse},
          {"head_size", call[q].last_size()},
          {"rotary", call["cos"].last_size()},
          {"q_heads", call[q].sizes[1]},
          {"k_heads", call.has(k) ? call[k].sizes[1] : 0},
          {"align_bytes", int64_t{call.align_bytes()}}};
}

int64_t parts(int64_t whole, int64_t of_part) { return (whole + of_part - 1) / of_part; }

// {threads, tokens, heads}: as many tokens as give each thread one place of eight elements.
std::vector<Knobs> rope_candidates(const Call& call, std::string_view q) {
  const int64_t heads = std::max<int64_t>(call[q].sizes[1], 1);
  if (call.on_host()) return {{{"threads", 1}, {"tokens", 4}, {"heads", heads}}};
  const int64_t places = std::max<int64_t>(call["cos"].last_size() / 16, 1);
  std::vector<Knobs> list;
  for (const auto& [threads, most] :
       {std::pair{256, 8}, {128, 8}, {256, 4}, {128, 4}, {256, 16}, {256, 32}, {64, 8}}) {
    list.push_back({{"threads", threads},
                    {"tokens", std::max<int64_t>(threads / places, 1)},
                    {"heads", std::min<int64_t>(most, heads)}});
  }
  return list;
}

KernelOf rope_kernel(bool inverse, std::string q, std::string k, std::string q_out,
                     std::string k_out) {
  std::vector<Argument> arguments = {{"q", q},
                                     {"k", k},
                                     "cos",
                                     "sin",
                                     {"q_out", q_out},
                                     {"k_out", k_out},
                                     {"batch", q + ".size0"},
                                     {"tokens", q + ".size2"}};
  for (const auto& [member, tensor] :
       {std::pair{"q", q}, {"k", k}, {"q_out", q_out}, {"k_out", k_out}}) {
    add_head_strides(arguments, member, tensor);
  }
  add_angle_strides(arguments);
  return {
      .name = "Rope",
      .source = "rope/rope.h",
      .spec = [inverse, q, k](const Call& call) { return rope_spec(call, inverse, q, k); },
      .candidates = [q](const Call& call) { return rope_candidates(call, q); },
      .blocks =
          [q, k](const Call& call, const Knobs& knobs) {
            const int64_t all = call[q].sizes[0] * call[q].sizes[2];
            const int64_t heads = value_of(knobs, "heads", 1);
            return parts(all, value_of(knobs, "tokens", 1)) *
                   (parts(call[q].sizes[1], heads) +
                    (call.has(k) ? parts(call[k].sizes[1], heads) : 0));
          },
      .threads = [](const Knobs& knobs) { return value_of(knobs, "threads", 1); },
      .arguments = std::move(arguments),
  };
}

Output rotated(std::string name, std::string of, std::string q) {
  return {std::move(name), [of](const Call& call) { return call.has(of) ? preserve(of) : empty(); },
          [q](const Call& call) { return call[q].dtype; }};
}

std::vector<Sample> rope_samples(const Extent& e, const char* q, const char* k) {
  const int64_t heads = e["inner"] > 0 ? e["inner"] : 1;
  return {{.input = q, .shape = {1, heads, e["rows"], e["size"]}, .heads_second = true},
          {.input = k, .shape = {1, (heads + 3) / 4, e["rows"], e["size"]}, .heads_second = true},
          {.input = "cos", .shape = {1, e["rows"], e["size"]}},
          {.input = "sin", .shape = {1, e["rows"], e["size"]}}};
}

const Register rope{Op{
    .name = "rope",
    .doc = "rotary embedding of q and k in half-split form; the first cos.shape[-1] columns of a "
           "head rotate",
    .inputs = {strided("q"), optional(strided("k")), strided("cos"), strided("sin")},
    .outputs = {rotated("q_out", "q", "q"), rotated("k_out", "k", "q")},
    .check = [](const Call& call) { check_rotary(call, "q", "k"); },
    .kernels = {rope_kernel(false, "q", "k", "q_out", "k_out")},
    .gradient = {.backward = "rope_backward",
                 .saved = {"cos", "sin"},
                 .of = {{"q", "dq", {"q_out"}}, {"k", "dk", {"k_out"}}}},
    .sharding = Sharding::heads,
    .example = [](const Extent& e) { return rope_samples(e, "q", "k"); },
    .bench = {{"heads-32-8", {{"rows", 16384}, {"size", 128}, {"inner", 32}}}},
}};

const Register rope_backward{Op{
    .name = "rope_backward",
    .doc = "gradients of rope: the transposed rotation",
    .internal = true,
    .inputs = {strided("dq_out"), optional(strided("dk_out")), strided("cos"), strided("sin"),
               mask("output_mask", 2)},
    .outputs = {rotated("dq", "dq_out", "dq_out"), rotated("dk", "dk_out", "dq_out")},
    .check = [](const Call& call) { check_rotary(call, "dq_out", "dk_out"); },
    .kernels = {rope_kernel(true, "dq_out", "dk_out", "dq", "dk")},
    .sharding = Sharding::heads,
    .example =
        [](const Extent& e) {
          auto samples = rope_samples(e, "dq_out", "dk_out");
          samples.push_back({.input = "output_mask", .value = 3});
          return samples;
        },
}};

}  // namespace
}  // namespace liger
