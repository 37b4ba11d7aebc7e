// The factors of residual streams (manifold-constrained hyper-connections): alone, and with the
// mixture that goes into the layer.
#include <algorithm>
#include <bit>

#include "base/parts.h"
#include "base/text.h"
#include "engine/registry.h"
#include "ops/residual/streams.h"

namespace liger {
namespace {

constexpr int64_t slice_columns = 256;
constexpr int64_t part = 16;  // of a token's products: one slice, some outputs
constexpr int64_t coefficient_tokens = 16;
constexpr int64_t logit_threads = 128;
constexpr int64_t most_kept = 1 << 16;  // elements of matrices that a thread of a backward keeps

int64_t outputs_of(const Call& call) {
  return streams_of(call) * streams_of(call) + 2 * streams_of(call);
}
int64_t elements_of(const Call& call) { return streams_of(call) * channels_of(call); }
bool has_tokens(const Call& call) { return tokens_of(call) > 0; }

// Outputs of a task and tasks that share a slice, as even as they can be.
struct Groups {
  int64_t at_once;
  int64_t groups;
};
Groups product_groups(const Call& call) {
  const int64_t groups = (outputs_of(call) + 11) / 12;
  return {parts(outputs_of(call), groups), groups};
}
Groups gradient_groups(const Call& call) {
  const int64_t groups = (outputs_of(call) + 23) / 24;
  return {padded_columns(parts(outputs_of(call), groups)), groups};
}

// Matrix units take the products where x is in bfloat16 and lies so.
bool has_tiles(const Call& call) {
  return call.place().capability >= 80 && call["x"].dtype == Dtype::bf16 &&
         channels_of(call) % slice_columns == 0 && outputs_of(call) <= 24 &&
         call.align_bytes() >= 16;
}
int64_t columns_of_slice(const Call& call) {
  const bool fits =
      size_bytes(call["phi"].dtype) == 2 && channels_of(call) % (2 * slice_columns) == 0;
  return has_tiles(call) && fits ? 2 * slice_columns : slice_columns;
}
int64_t slices_of(const Call& call) {
  return streams_of(call) * parts(channels_of(call), columns_of_slice(call));
}

// Tokens of a task: so many tasks that each multiprocessor has sixteen.
int64_t product_walk(const Call& call) {
  const int64_t beside = slices_of(call) * product_groups(call).groups;
  const int64_t wanted = call.on_host() ? 4 : call.place().multiprocessors * 16 / beside;
  const int64_t walks = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, tokens_of(call)));
  return parts(tokens_of(call), walks);
}
int64_t product_tasks(const Call& call) {
  const int64_t walk = std::max<int64_t>(1, product_walk(call));
  return parts(tokens_of(call), walk) * slices_of(call) * product_groups(call).groups;
}

constexpr int64_t tile_threads = 128;
constexpr int64_t tile_columns = 64;              // of a warp, of the gradients
int64_t tile_gradient_blocks(const Call& call) {  // of one walk
  return parts(elements_of(call), tile_columns * tile_threads / 32);
}
// Blocks that share the tokens, in tiles of sixteen a warp: each multiprocessor has a few blocks.
int64_t tile_product_walks(const Call& call) {
  const int64_t most = parts(tokens_of(call), tile_threads / 32 * 16);
  return std::clamp<int64_t>(call.place().multiprocessors * 4 / slices_of(call), 1, most);
}
int64_t tile_gradient_walks(const Call& call) {
  const int64_t most = parts(tokens_of(call), 16);
  return std::clamp<int64_t>(call.place().multiprocessors * 2 / tile_gradient_blocks(call), 1,
                             most);
}

constexpr int64_t gradient_threads = 128;
int64_t gradient_columns(const Call& call) { return call.on_host() ? 64 : 2; }
int64_t gradient_blocks(const Call& call) {  // of one walk
  const int64_t of_block = gradient_columns(call) * (call.on_host() ? 1 : gradient_threads);
  return streams_of(call) * parts(channels_of(call), of_block);
}
// Walks fix the order of phi's gradient: they depend on sizes and the device alone.
int64_t gradient_walk(const Call& call) {
  const int64_t most = std::max<int64_t>(1, tokens_of(call));
  const int64_t wanted =
      call.on_host() ? 2 : call.place().multiprocessors * 3 / gradient_blocks(call);
  return parts(most, std::clamp<int64_t>(wanted, 1, most));
}
int64_t gradient_walks(const Call& call) {
  if (tokens_of(call) == 0) return 0;
  return has_tiles(call) ? tile_gradient_walks(call) : parts(tokens_of(call), gradient_walk(call));
}
// Gradients of products, the factor of the token itself, h_pre.
int64_t zeros_up_to(const Call& call) {
  return gradient_groups(call).at_once * gradient_groups(call).groups;
}
int64_t factors_stride(const Call& call) {
  return padded_columns(zeros_up_to(call) + 1 + streams_of(call));
}

void check(const Call& call) {
  require_streams(call);
  const int64_t outputs = outputs_of(call);
  require_sizes(call, "phi", {elements_of(call), outputs},
                "HC * C rows and HC * HC + 2 * HC columns");
  require_sizes(call, "b", {outputs}, "one for each column of 'phi'");
  for (const char* alpha : {"alpha_pre", "alpha_post", "alpha_res"}) {
    if (call[alpha].count() != 1)
      call.refuse(alpha, "has shape " + shape_text(call[alpha]), "one element");
    require_same_dtype(call, "alpha_pre", alpha);
  }
  const int64_t steps = call.integer("tmax");
  const int64_t most = most_kept / (streams_of(call) * streams_of(call));
  if (steps < 1 || steps > most)
    call.refuse("tmax", fmt::format("is {}", steps), fmt::format("1 to {}", most));
  for (const char* eps : {"rms_eps", "sinkhorn_eps"}) {
    if (!(call.real(eps) >= 0.0))
      call.refuse(eps, fmt::format("is {}", call.real(eps)), "0 or more");
  }
}

std::vector<Input> tensors() {
  return {strided("x"),       dense("phi"),        dense("b"),
          dense("alpha_pre"), dense("alpha_post"), dense("alpha_res")};
}
void add_options(std::vector<Input>& inputs) {
  for (Input& input :
       std::vector<Input>{integer("tmax", 20), real("rms_eps", "1e-06"), real("pre_eps", "0.0"),
                          real("sinkhorn_eps", "1e-06"), real("post_mult", "2.0")})
    inputs.push_back(std::move(input));
}

Dtype arithmetic_of_x(const Call& call) { return arithmetic(call["x"].dtype); }
int64_t arithmetic_bytes(const Call& call) { return size_bytes(arithmetic_of_x(call)); }

Spec product_spec(const Call& call) {
  return {{"x", call["x"].dtype},
          {"phi", call["phi"].dtype},
          {"streams", streams_of(call)},
          {"channels", channels_of(call)},
          {"outputs", outputs_of(call)},
          {"at_once", product_groups(call).at_once},
          {"groups", product_groups(call).groups}};
}

std::vector<Argument> product_arguments(Argument walk) {
  return {"x",
          "phi",
          "parts",
          {"tokens", tokens_of},
          std::move(walk),
          {"x_token_stride", "x.stride0"},
          {"x_stride", "x.stride1"}};
}

KernelOf product_tiles() {
  return {.name = "StreamProductTiles",
          .source = "residual/stream_tiles.h",
          .when = [](const Call& call) { return has_tokens(call) && has_tiles(call); },
          .spec =
              [](const Call& call) {
                Spec spec = product_spec(call);
                spec.push_back({"columns", columns_of_slice(call)});
                return spec;
              },
          .candidates = [](const Call&) -> std::vector<Knobs> {
            return {{{"threads", tile_threads}}};
          },
          .blocks = [](const Call& call,
                       const Knobs&) { return tile_product_walks(call) * slices_of(call); },
          .arguments = product_arguments({"walks", tile_product_walks})};
}

KernelOf products() {
  return {.name = "StreamProducts",
          .source = "residual/stream_products.h",
          .when = [](const Call& call) { return has_tokens(call) && !has_tiles(call); },
          .spec =
              [](const Call& call) {
                Spec spec = product_spec(call);
                spec.push_back({"align_bytes", int64_t{call.align_bytes()}});
                return spec;
              },
          .candidates = [](const Call& call) -> std::vector<Knobs> {
            if (call.on_host()) return {{{"rows", 1}}};
            return {{{"rows", 4}}, {{"rows", 8}}};
          },
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(product_tasks(call), knobs); },
          .threads = [](const Knobs& knobs) { return 32 * value_of(knobs, "rows", 1); },
          .arguments = product_arguments({"walk", product_walk})};
}

Spec coefficient_spec(const Call& call) {
  return {{"x", call["x"].dtype}, {"b", call["b"].dtype}, {"alpha", call["alpha_pre"].dtype}};
}

KernelOf coefficients(bool mixes) {
  return {.name = "MhcCoefficients",
          .source = "residual/mhc_coeffs.h",
          .when = has_tokens,
          .spec =
              [mixes](const Call& call) {
                Spec spec = coefficient_spec(call);
                spec.insert(spec.end(), {{"has_mixture", mixes},
                                         {"streams", streams_of(call)},
                                         {"steps", call.integer("tmax")},
                                         {"elements", elements_of(call)},
                                         {"slices", slices_of(call)},
                                         {"at_once", product_groups(call).at_once},
                                         {"groups", product_groups(call).groups}});
                return spec;
              },
          .candidates = [](const Call&) -> std::vector<Knobs> {
            return {{{"threads", 256}}};
          },
          .blocks = [](const Call& call,
                       const Knobs&) { return parts(tokens_of(call), coefficient_tokens); },
          .arguments = {"parts",
                        "b",
                        "alpha_pre",
                        "alpha_post",
                        "alpha_res",
                        "h_pre",
                        "h_post",
                        "h_res",
                        {"streams", mixes ? "streams" : "rstd"},
                        "mix",
                        "rstd",
                        {"tokens", tokens_of},
                        "rms_eps",
                        "pre_eps",
                        "sinkhorn_eps",
                        "post_mult"}};
}

std::vector<Sample> samples_of(const Extent& e) {
  const int64_t streams = e["streams"];
  const int64_t outputs = streams * streams + 2 * streams;
  return {{.input = "x", .shape = {e["rows"], streams, e["size"]}},
          {.input = "phi", .shape = {streams * e["size"], outputs}},
          {.input = "b", .shape = {outputs}},
          {.input = "alpha_pre", .shape = {}},
          {.input = "alpha_post", .shape = {}},
          {.input = "alpha_res", .shape = {}}};
}
std::vector<ExampleSize> sizes_of_example() {
  return example_sizes({{"streams", 4, "residual streams of a token"}});
}

Op forward(std::string name, std::string doc, bool mixes) {
  Op op;
  op.name = std::move(name);
  op.doc = std::move(doc);
  op.inputs = tensors();
  add_options(op.inputs);
  op.inputs.push_back(flag("keep_mix"));
  if (mixes) {
    op.outputs.push_back({"x_in",
                          [](const Call&) {
                            return sized({size_of("x", 0), size_of("x", 2)});
                          },
                          [](const Call& call) { return call["x"].dtype; }});
  }
  for (const char* h : {"h_pre", "h_post"}) {
    op.outputs.push_back({h, [](const Call&) { return rows_of("x"); }, arithmetic_of_x});
  }
  op.outputs.push_back({"h_res",
                        [](const Call&) { return followed_by(rows_of("x"), {size_of("x", 1)}); },
                        arithmetic_of_x});
  if (mixes) {  // stands for the streams that go around the layer, whose gradient comes back by it
    op.outputs.push_back({"streams", [](const Call&) { return expanded("x"); },
                          [](const Call& call) { return call["x"].dtype; }});
  }
  op.outputs.push_back({"mix",
                        [](const Call& call) {
                          if (!call.flag("keep_mix")) return empty();
                          return sized({size_of("x", 0), size_of("b", 0)});
                        },
                        arithmetic_of_x, false});
  op.outputs.push_back(
      {"rstd",
       [](const Call& call) { return call.flag("keep_mix") ? sized({size_of("x", 0)}) : empty(); },
       arithmetic_of_x, false});
  op.temporaries = {{"parts", [](const Call& call) -> int64_t {
                       return tokens_of(call) * slices_of(call) * product_groups(call).groups *
                              part * arithmetic_bytes(call);
                     }}};
  op.check = check;
  op.kernels = {product_tiles(), products(), coefficients(mixes)};
  if (mixes) op.kernels.push_back(mixture_before_layer());
  op.gradient.backward = op.name + "_backward";
  for (const Input& input : tensors()) {
    op.gradient.saved.push_back(input.name);
    // Each of the three alphas scales one of the factors.
    std::vector<std::string> through;
    if (input.name == "alpha_pre") through = {"h_pre"};
    if (input.name == "alpha_post") through = {"h_post"};
    if (input.name == "alpha_res") through = {"h_res"};
    if (input.name == "phi" || input.name == "b") through = {"h_pre", "h_post", "h_res"};
    if (mixes && !through.empty() && through[0] == "h_pre") through.push_back("x_in");
    op.gradient.of.push_back({input.name, "d" + input.name, through});
  }
  op.gradient.saved.insert(op.gradient.saved.end(), {"mix", "rstd"});
  op.gradient.needs_grad_flag = "keep_mix";
  op.example = samples_of;
  op.sizes = sizes_of_example();
  op.bench = {{"streams-4", {{"streams", 4}, {"rows", 4096}, {"size", 2048}}}};
  return op;
}

// The gradient that came to the streams themselves, after the layer.
bool has_streams(bool mixes, const Call& call) { return mixes && call["dstreams"].defined; }

bool wants_vectors(const Call& call) {
  for (int i = 2; i < 6; ++i) {
    if (call.wants_grad(i)) return true;
  }
  return false;
}

// A token has a lane for each row of its matrix; the 32 lanes that meet by shuffles make a partial.
int64_t logit_tokens(const Call& call) {  // of one block
  if (call.on_host()) return 32;
  return logit_threads /
         static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(streams_of(call))));
}
int64_t vector_partials(const Call& call) {
  return parts(tokens_of(call), logit_tokens(call)) * (call.on_host() ? 1 : logit_threads / 32);
}

bool wants_products(const Call& call) { return call.wants_grad(0) || call.wants_grad(1); }

KernelOf logits(bool mixes) {
  return {.name = "MhcLogits",
          .source = "residual/mhc_coeffs.h",
          .when = has_tokens,
          .spec =
              [mixes](const Call& call) {
                Spec spec = coefficient_spec(call);
                spec.insert(spec.end(), {{"has_mixture", mixes},
                                         {"streams", streams_of(call)},
                                         {"steps", call.integer("tmax")},
                                         {"elements", elements_of(call)},
                                         {"padded", zeros_up_to(call)},
                                         {"want_vectors", wants_vectors(call)}});
                return spec;
              },
          .candidates = [](const Call& call) -> std::vector<Knobs> {
            return {{{"threads", call.on_host() ? logit_tokens(call) : logit_threads}}};
          },
          .blocks = [](const Call& call,
                       const Knobs&) { return parts(tokens_of(call), logit_tokens(call)); },
          .arguments = {"dh_pre",
                        {"dh_mixture", mixes ? "dh_mixture" : "mix"},
                        "dh_post",
                        "dh_res",
                        "mix",
                        "rstd",
                        "b",
                        "alpha_pre",
                        "alpha_post",
                        "alpha_res",
                        {"partials", "vector_partials"},
                        "factors",
                        {"tokens", tokens_of},
                        {"factors_stride", factors_stride},
                        "pre_eps",
                        "sinkhorn_eps",
                        "post_mult"}};
}

Spec gradient_spec(bool mixes, const Call& call) {
  return {{"x", call["x"].dtype},          {"phi", call["phi"].dtype},
          {"has_mixture", mixes},          {"has_streams", has_streams(mixes, call)},
          {"want_dx", call.wants_grad(0)}, {"want_dphi", call.wants_grad(1)},
          {"streams", streams_of(call)},   {"channels", channels_of(call)},
          {"outputs", outputs_of(call)}};
}

std::vector<Argument> gradient_arguments(bool mixes, Argument walk) {
  return {{"dx_in", mixes ? "dx_in" : "x"},
          {"dstreams", mixes ? "dstreams" : "x"},
          "x",
          "phi",
          "factors",
          "dx",
          "partials",
          {"tokens", tokens_of},
          std::move(walk),
          {"factors_stride", factors_stride},
          {"dx_in_stride", mixes ? "dx_in.stride0" : "x.stride0"},
          {"dstreams_token_stride", mixes ? "dstreams.stride0" : "x.stride0"},
          {"dstreams_stride", mixes ? "dstreams.stride1" : "x.stride1"},
          {"x_token_stride", "x.stride0"},
          {"x_stride", "x.stride1"}};
}

KernelOf gradient_tiles(bool mixes) {
  return {.name = "StreamGradientTiles",
          .source = "residual/stream_tiles.h",
          .when =
              [](const Call& call) {
                return has_tokens(call) && wants_products(call) && has_tiles(call);
              },
          .spec =
              [mixes](const Call& call) {
                Spec spec = gradient_spec(mixes, call);
                spec.push_back({"padded", zeros_up_to(call)});
                return spec;
              },
          .candidates = [](const Call&) -> std::vector<Knobs> {
            return {{{"threads", tile_threads}}};
          },
          .blocks = [](const Call& call,
                       const Knobs&) { return tile_gradient_blocks(call) * gradient_walks(call); },
          .arguments = gradient_arguments(mixes, {"walks", gradient_walks})};
}

KernelOf gradients(bool mixes) {
  return {.name = "StreamGradients",
          .source = "residual/stream_products.h",
          .when =
              [](const Call& call) {
                return has_tokens(call) && wants_products(call) && !has_tiles(call);
              },
          .spec =
              [mixes](const Call& call) {
                Spec spec = gradient_spec(mixes, call);
                spec.insert(spec.end(), {{"at_once", gradient_groups(call).at_once},
                                         {"groups", gradient_groups(call).groups},
                                         {"align_bytes", int64_t{call.align_bytes()}},
                                         {"columns", gradient_columns(call)}});
                return spec;
              },
          .candidates = [](const Call& call) -> std::vector<Knobs> {
            return {{{"threads", call.on_host() ? 1 : gradient_threads}}};
          },
          .blocks = [](const Call& call,
                       const Knobs&) { return gradient_blocks(call) * gradient_walks(call); },
          .arguments = gradient_arguments(mixes, {"walk", gradient_walk})};
}

KernelOf phi_gradient() {
  return {
      .name = "PhiGradient",
      .source = "residual/stream_products.h",
      .when = [](const Call& call) { return call.wants_grad(1); },
      .spec = [](const Call& call) -> Spec {
        return {{"partial", arithmetic_of_x(call)},
                {"phi", call["phi"].dtype},
                {"by_column", has_tiles(call)},
                {"outputs", outputs_of(call)}};
      },
      .candidates = [](const Call&) -> std::vector<Knobs> {
        return {{{"threads", 256}}};
      },
      .blocks = [](const Call& call, const Knobs&) { return (call["phi"].count() + 255) / 256; },
      .arguments = {"partials", "dphi", {"walks", gradient_walks}, {"rows", elements_of}}};
}

KernelOf vectors() {
  return {.name = "MhcVectors",
          .source = "residual/mhc_coeffs.h",
          .when = wants_vectors,
          .spec =
              [](const Call& call) {
                Spec spec = coefficient_spec(call);
                spec.push_back({"streams", streams_of(call)});
                return spec;
              },
          .candidates = [](const Call& call) -> std::vector<Knobs> {
            return {{{"threads", call.on_host() ? 1 : 128}}};
          },
          .blocks = [](const Call& call, const Knobs&) { return outputs_of(call) + 3; },
          .arguments = {{"partials", "vector_partials"},
                        "db",
                        "dalpha_pre",
                        "dalpha_post",
                        "dalpha_res",
                        {"count", vector_partials}}};
}

Op backward(std::string name, bool mixes) {
  Op op;
  op.doc = "gradients of " + name;
  op.name = std::move(name) + "_backward";
  op.internal = true;
  if (mixes) op.inputs.push_back(strided("dx_in"));
  for (const char* slope : {"dh_pre", "dh_post", "dh_res"})
    op.inputs.push_back(optional(dense(slope)));
  if (mixes) op.inputs.push_back(optional(strided("dstreams")));
  for (Input& input : tensors()) op.inputs.push_back(std::move(input));
  op.inputs.push_back(dense("mix"));
  op.inputs.push_back(dense("rstd"));
  add_options(op.inputs);
  op.inputs.push_back(mask("output_mask", 6));
  int index = 0;
  for (const Input& input : tensors()) {
    const int bit = index++;
    const std::string of = input.name;
    op.outputs.push_back({"d" + of,
                          [of, bit](const Call& call) {
                            const bool made = bit < 2 ? call.wants_grad(bit) : wants_vectors(call);
                            return made ? like(of) : empty();
                          },
                          [of](const Call& call) { return call[of].dtype; }});
  }
  op.temporaries = {{"vector_partials",
                     [](const Call& call) {
                       return vector_partials(call) * (outputs_of(call) + 3) *
                              arithmetic_bytes(call);
                     }},
                    {"factors",
                     [](const Call& call) {
                       return tokens_of(call) * factors_stride(call) * arithmetic_bytes(call);
                     }},
                    {"partials", [](const Call& call) -> int64_t {
                       if (!call.wants_grad(1)) return 0;
                       return gradient_walks(call) * call["phi"].count() * arithmetic_bytes(call);
                     }}};
  if (mixes) {
    op.temporaries.push_back({"dh_mixture", [](const Call& call) {
                                return tokens_of(call) * streams_of(call) * arithmetic_bytes(call);
                              }});
  }
  op.check = [mixes](const Call& call) {
    check(call);
    const int64_t tokens = tokens_of(call);
    const int64_t streams = streams_of(call);
    if (mixes) {
      require_sizes(call, "dx_in", {tokens, channels_of(call)}, "a channel's for each token");
      require_same_dtype(call, "x", "dx_in");
      if (has_streams(mixes, call)) {
        require_same_shape(call, "x", "dstreams");
        require_same_dtype(call, "x", "dstreams");
      }
    }
    require_sizes(call, "dh_pre", {tokens, streams}, "a factor for each stream of a token");
    require_sizes(call, "dh_post", {tokens, streams}, "a factor for each stream of a token");
    require_sizes(call, "dh_res", {tokens, streams, streams}, "a matrix for each token");
    require_sizes(call, "mix", {tokens, outputs_of(call)},
                  "which the forward keeps where it is asked to");
    require_sizes(call, "rstd", {tokens}, "which the forward keeps where it is asked to");
    for (const char* kept : {"dh_pre", "dh_post", "dh_res", "mix", "rstd"})
      require_arithmetic(call, kept);
  };
  if (mixes) op.kernels.push_back(sums_of_mixture_before_layer("dx_in", "dh_mixture"));
  op.kernels.insert(op.kernels.end(), {logits(mixes), gradient_tiles(mixes), gradients(mixes),
                                       phi_gradient(), vectors()});
  op.example = [mixes](const Extent& e) {
    const int64_t streams = e["streams"];
    std::vector<Sample> samples;
    if (mixes) samples.push_back({.input = "dx_in", .shape = {e["rows"], e["size"]}});
    for (const char* slope : {"dh_pre", "dh_post"}) {
      samples.push_back({.input = slope, .shape = {e["rows"], streams}, .dtype = "arithmetic"});
    }
    samples.push_back(
        {.input = "dh_res", .shape = {e["rows"], streams, streams}, .dtype = "arithmetic"});
    if (mixes) samples.push_back({.input = "dstreams", .shape = {e["rows"], streams, e["size"]}});
    for (Sample& sample : samples_of(e)) samples.push_back(std::move(sample));
    samples.insert(samples.end(), {{.input = "mix",
                                    .shape = {e["rows"], streams * streams + 2 * streams},
                                    .dtype = "arithmetic"},
                                   {.input = "rstd", .shape = {e["rows"]}, .dtype = "arithmetic"},
                                   {.input = "tmax", .value = 20},
                                   {.input = "rms_eps", .value = 1e-6},
                                   {.input = "pre_eps", .value = 0.0},
                                   {.input = "sinkhorn_eps", .value = 1e-6},
                                   {.input = "post_mult", .value = 2.0},
                                   {.input = "output_mask", .value = 63}});
    return samples;
  };
  op.sizes = sizes_of_example();
  return op;
}

const Register mhc_coeffs{forward("mhc_coeffs",
                                  "factors of a token's residual streams: h_pre, h_post and, by "
                                  "Sinkhorn's iteration, h_res",
                                  false)};
const Register mhc_coeffs_backward{backward("mhc_coeffs", false)};
const Register mhc_forward{
    forward("mhc_forward", "mhc_coeffs and the mixture that goes into the layer", true)};
const Register mhc_forward_backward{backward("mhc_forward", true)};

}  // namespace
}  // namespace liger
