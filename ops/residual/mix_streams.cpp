#include <algorithm>

#include "base/text.h"
#include "engine/registry.h"
#include "ops/residual/streams.h"

namespace liger {

int64_t tokens_of(const Call& call) { return call["x"].sizes[0]; }
int64_t streams_of(const Call& call) { return call["x"].sizes[1]; }
int64_t channels_of(const Call& call) { return call["x"].sizes[2]; }

void require_streams(const Call& call) {
  const Tensor& x = call["x"];
  if (x.dims == 3 && x.sizes[1] >= 1 && x.sizes[1] <= most_streams && x.sizes[2] >= 1) return;
  call.refuse("x", "has shape " + shape_text(x),
              fmt::format("[tokens, HC, C] with 1 to {} streams HC, C of 1 or more", most_streams));
}

void require_sizes(const Call& call, std::string_view tensor, std::vector<int64_t> sizes,
                   std::string_view meaning) {
  const Tensor& t = call[tensor];
  if (!t.defined) return;
  if (t.dims == static_cast<int>(sizes.size()) && std::equal(sizes.begin(), sizes.end(), t.sizes))
    return;
  call.refuse(tensor, "has shape " + shape_text(t),
              fmt::format("[{}], {}", fmt::join(sizes, ", "), meaning));
}

void require_arithmetic(const Call& call, std::string_view tensor) {
  const Tensor& t = call[tensor];
  const Dtype wanted = arithmetic(call["x"].dtype);
  if (!t.defined || t.dtype == wanted) return;
  call.refuse(tensor, fmt::format("has dtype {}", name_of(t.dtype)),
              fmt::format("{}, in which factors of streams are kept", name_of(wanted)));
}

namespace {

// The mixture before a layer (h_pre) or those after it (h_post, h_res).
struct Mixture {
  std::string name;
  bool after;

  std::string h() const { return after ? "h_res" : "h_pre"; }
};

int64_t mixtures_of(const Mixture& mixture, const Call& call) {
  return mixture.after ? streams_of(call) : 1;
}

void check(const Mixture& mixture, const Call& call) {
  require_streams(call);
  const int64_t tokens = tokens_of(call);
  const int64_t streams = streams_of(call);
  if (mixture.after) {
    require_sizes(call, "f_out", {tokens, channels_of(call)}, "a layer's output for each token");
    require_sizes(call, "h_post", {tokens, streams}, "a factor for each stream of a token");
    require_sizes(call, "h_res", {tokens, streams, streams}, "a matrix for each token");
    require_arithmetic(call, "h_post");
  } else {
    require_sizes(call, "h_pre", {tokens, streams}, "a factor for each stream of a token");
  }
  require_arithmetic(call, mixture.h());
}

Spec shared_spec(const Mixture& mixture, const Call& call) {
  return {{"x", call["x"].dtype},
          {"f", call[mixture.after ? "f_out" : "x"].dtype},
          {"has_f", mixture.after}};
}
void add_sizes(Spec& spec, const Mixture& mixture, const Call& call) {
  spec.insert(spec.end(), {{"streams", streams_of(call)},
                           {"mixtures", mixtures_of(mixture, call)},
                           {"channels", channels_of(call)},
                           {"align_bytes", int64_t{call.align_bytes()}}});
}

// The streams of a thread's packs, of x and dy and f, in registers.
int arrays_of(const Mixture& mixture, const Call& call) {
  const int64_t rows = streams_of(call) + mixtures_of(mixture, call) + (mixture.after ? 1 : 0);
  return static_cast<int>((rows * size_bytes(call["x"].dtype) + 3) / 4 + 3);
}
bool holds_streams(const Mixture& mixture, const Call& call) {
  return !call.on_host() && channels_of(call) <= 4096 && arrays_of(mixture, call) <= 12;
}

std::vector<Input> inputs_of(const Mixture& mixture) {
  if (mixture.after) return {strided("x"), strided("f_out"), dense("h_post"), dense("h_res")};
  return {strided("x"), dense("h_pre")};
}

std::vector<Sample> samples_of(const Mixture& mixture, const Extent& e) {
  std::vector<Sample> samples = {{.input = "x", .shape = {e["rows"], e["streams"], e["size"]}}};
  if (mixture.after) {
    samples.push_back({.input = "f_out", .shape = {e["rows"], e["size"]}});
    samples.push_back(
        {.input = "h_post", .shape = {e["rows"], e["streams"]}, .dtype = "arithmetic"});
  }
  samples.push_back(
      mixture.after
          ? Sample{.input = "h_res",
                   .shape = {e["rows"], e["streams"], e["streams"]},
                   .dtype = "arithmetic"}
          : Sample{.input = "h_pre", .shape = {e["rows"], e["streams"]}, .dtype = "arithmetic"});
  return samples;
}

KernelOf forward_kernel(const Mixture& mixture, const char* y) {
  return {.name = "MixStreamsForward",
          .source = "residual/mix_streams.h",
          .when = [](const Call& call) { return tokens_of(call) > 0; },
          .spec =
              [mixture](const Call& call) {
                Spec spec = shared_spec(mixture, call);
                add_sizes(spec, mixture, call);
                return spec;
              },
          .candidates = [](const Call& call) { return row_candidates(call, channels_of(call), 0); },
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(tokens_of(call), knobs); },
          .arguments = {"x",
                        {"f", mixture.after ? "f_out" : "x"},
                        {"h", mixture.h()},
                        {"g", mixture.after ? "h_post" : "h_pre"},
                        {"y", y},
                        {"tokens", tokens_of},
                        {"x_token_stride", "x.stride0"},
                        {"x_stride", "x.stride1"},
                        {"f_stride", mixture.after ? "f_out.stride0" : "x.stride0"}}};
}

Op forward(const Mixture& mixture, std::string doc) {
  Op op;
  op.name = mixture.name;
  op.doc = std::move(doc);
  op.inputs = inputs_of(mixture);
  // Who gets the gradient of x in its place.
  if (mixture.after) op.inputs.push_back(optional(unread("streams")));
  op.outputs = {{mixture.after ? "x_out" : "x_in",
                 [mixture](const Call&) {
                   return mixture.after ? like("x") : sized({size_of("x", 0), size_of("x", 2)});
                 },
                 [](const Call& call) { return call["x"].dtype; }}};
  op.check = [mixture](const Call& call) {
    check(mixture, call);
    if (!mixture.after || !call["streams"].defined) return;
    require_same_shape(call, "x", "streams");
    require_same_dtype(call, "x", "streams");
  };
  op.kernels = {forward_kernel(mixture, mixture.after ? "x_out" : "x_in")};
  op.gradient.backward = mixture.name + "_backward";
  for (const Input& input : inputs_of(mixture)) {
    op.gradient.saved.push_back(input.name);
    op.gradient.of.push_back({input.name, "d" + input.name});
  }
  if (mixture.after) op.gradient.of.push_back({"streams", "dx"});
  op.example = [mixture](const Extent& e) { return samples_of(mixture, e); };
  op.sizes = example_sizes({{"streams", 4, "residual streams of a token"}});
  op.bench = {{"streams-4", {{"streams", 4}, {"rows", 4096}, {"size", 2048}}}};
  return op;
}

// What a backward kernel makes, and the tensors it reads and writes.
struct Made {
  std::function<bool(const Call&)> dx;
  std::function<bool(const Call&)> df;
  std::function<bool(const Call&)> sums;
  std::string dy;
  std::string h;
  std::string dx_to;
  std::string dh_to;
};

KernelOf backward_kernel(const Mixture& mixture, const Made& made) {
  return {.name = "MixStreamsBackward",
          .source = "residual/mix_streams.h",
          .when = [](const Call& call) { return tokens_of(call) > 0; },
          .spec =
              [mixture, made](const Call& call) {
                Spec spec = shared_spec(mixture, call);
                spec.insert(spec.end(), {{"want_dx", made.dx(call)},
                                         {"want_df", made.df(call)},
                                         {"want_sums", made.sums(call)}});
                add_sizes(spec, mixture, call);
                spec.push_back({"hold", holds_streams(mixture, call)});
                return spec;
              },
          .candidates =
              [mixture](const Call& call) {
                return row_candidates(call, channels_of(call),
                                      holds_streams(mixture, call) ? arrays_of(mixture, call) : 0);
              },
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(tokens_of(call), knobs); },
          .arguments = {{"dy", made.dy},
                        "x",
                        {"f", mixture.after ? "f_out" : "x"},
                        {"h", made.h},
                        {"g", mixture.after ? "h_post" : made.h},
                        {"dx", made.dx_to},
                        {"df", mixture.after ? "df_out" : made.dx_to},
                        {"dh", made.dh_to},
                        {"dg", mixture.after ? "dh_post" : made.dh_to},
                        {"tokens", tokens_of},
                        {"dy_token_stride", made.dy + ".stride0"},
                        {"dy_stride", made.dy + (mixture.after ? ".stride1" : ".stride0")},
                        {"x_token_stride", "x.stride0"},
                        {"x_stride", "x.stride1"},
                        {"f_stride", mixture.after ? "f_out.stride0" : "x.stride0"}}};
}

Op backward(const Mixture& mixture, std::string doc) {
  Op op;
  op.name = mixture.name + "_backward";
  op.doc = std::move(doc);
  op.internal = true;
  op.inputs = inputs_of(mixture);
  const int count = static_cast<int>(op.inputs.size());
  const auto wants_sums = [mixture](const Call& call) {
    return mixture.after ? call.wants_grad(2) || call.wants_grad(3) : call.wants_grad(1);
  };
  for (int i = 0; i < count; ++i) {
    const std::string name = op.inputs[i].name;
    const bool is_factor = name[0] == 'h';
    op.outputs.push_back({"d" + name,
                          [name, is_factor, i, wants_sums](const Call& call) {
                            const bool made = is_factor ? wants_sums(call) : call.wants_grad(i);
                            return made ? like(name) : empty();
                          },
                          [name](const Call& call) { return call[name].dtype; }});
  }
  op.inputs.insert(op.inputs.begin(), strided("dy"));
  op.inputs.push_back(mask("output_mask", count));
  op.check = [mixture](const Call& call) {
    check(mixture, call);
    require_same_dtype(call, "x", "dy");
    if (mixture.after) return require_same_shape(call, "x", "dy");
    require_sizes(call, "dy", {tokens_of(call), channels_of(call)}, "a channel's for each token");
  };
  op.kernels = {backward_kernel(
      mixture, {.dx = [](const Call& call) { return call.wants_grad(0); },
                .df = [mixture](const Call& call) { return mixture.after && call.wants_grad(1); },
                .sums = wants_sums,
                .dy = "dy",
                .h = mixture.h(),
                .dx_to = "dx",
                .dh_to = "d" + mixture.h()})};
  op.example = [mixture, count](const Extent& e) {
    auto samples = samples_of(mixture, e);
    samples.insert(samples.begin(),
                   mixture.after
                       ? Sample{.input = "dy", .shape = {e["rows"], e["streams"], e["size"]}}
                       : Sample{.input = "dy", .shape = {e["rows"], e["size"]}});
    samples.push_back({.input = "output_mask", .value = static_cast<double>((1 << count) - 1)});
    return samples;
  };
  op.sizes = example_sizes({{"streams", 4, "residual streams of a token"}});
  return op;
}

const Mixture before_layer{"mhc_pre", false};
const Mixture after_layer{"mhc_post_res", true};

const Register mhc_pre{
    forward(before_layer, "x_in = sum of h_pre[i] * x[i] over a token's streams i")};
const Register mhc_pre_backward{
    backward(before_layer, "gradients of mhc_pre: of the streams and of their factors")};
const Register mhc_post_res{forward(
    after_layer, "x_out[o] = sum of h_res[o][i] * x[i] over streams i + h_post[o] * f_out")};
const Register mhc_post_res_backward{
    backward(after_layer, "gradients of mhc_post_res: of streams, layer and factors")};

}  // namespace

KernelOf mixture_before_layer() { return forward_kernel(before_layer, "x_in"); }

KernelOf sums_of_mixture_before_layer(std::string dx_in, std::string dh) {
  const auto no = [](const Call&) { return false; };
  return backward_kernel(before_layer, {.dx = no,
                                        .df = no,
                                        .sums = [](const Call&) { return true; },
                                        .dy = std::move(dx_in),
                                        .h = dh,  // not read
                                        .dx_to = "dx",
                                        .dh_to = std::move(dh)});
}

}  // namespace liger
