// Parts of composites that put the channels of causal matrices last, for a convolution, and back.
#include <algorithm>

#include "base/parts.h"
#include "base/text.h"
#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

// As the template deals them out.
int64_t units_of_row(int64_t width, int64_t channels) {
  const int64_t neighbours = std::min<int64_t>(packs_of(channels), 8);
  if (neighbours == 0) return 0;
  return parts(packs_of(channels), neighbours) * packs_of(width) * neighbours;
}

KernelOf kernel(bool to_channels_last) {
  const int channels_dim = to_channels_last ? 1 : 3;
  const auto with_bias = [to_channels_last](const Call& call) {
    return !to_channels_last && call.has("bias");
  };
  KernelOf made = {.name = "TriangleLayout",
                   .source = "attention/triangle_layout.h",
                   .spec = [=](const Call& call) -> Spec {
                     const Tensor& x = call["x"];
                     return {{"x", x.dtype},
                             {"width", x.sizes[2]},
                             {"channels", x.sizes[channels_dim]},
                             {"align_bytes", int64_t{call.on_host() ? 2 : x.align_bytes}},
                             {"to_channels_last", to_channels_last},
                             {"adds_bias", with_bias(call)}};
                   },
                   .candidates = [](const Call& call) -> std::vector<Knobs> {
                     if (call.on_host()) return {{{"units", 1024}}};
                     return {{{"units", 256}}, {{"units", 128}}, {{"units", 512}}};
                   },
                   .blocks =
                       [channels_dim](const Call& call, const Knobs& knobs) {
                         const Tensor& x = call["x"];
                         const int64_t units = x.sizes[0] * x.sizes[2] *
                                               units_of_row(x.sizes[2], x.sizes[channels_dim]);
                         const int64_t of_block = value_of(knobs, "units", 1);
                         return parts(units, of_block);
                       },
                   .threads = [](const Knobs& knobs) { return value_of(knobs, "units", 1); },
                   .arguments = {"x"}};
  if (to_channels_last) {
    made.arguments.emplace_back("bias", [](const Call&) { return int64_t{0}; });
  } else {
    made.arguments.emplace_back("bias");
  }
  made.arguments.emplace_back("y");
  made.arguments.emplace_back(
      "rows", [](const Call& call) { return call["x"].sizes[0] * call["x"].sizes[2]; });
  return made;
}

KernelOf softmax_backward() {
  return {.name = "CausalSoftmaxFromChannels",
          .source = "attention/triangle_layout.h",
          .spec = [](const Call& call) -> Spec {
            const Tensor& y = call["y"];
            const int align = std::min(y.align_bytes, call["dy"].align_bytes);
            return {{"x", y.dtype},
                    {"width", y.sizes[2]},
                    {"channels", y.sizes[3]},
                    {"align_bytes", int64_t{call.on_host() ? 2 : align}},
                    {"threads", int64_t{256}}};
          },
          .blocks =
              [](const Call& call, const Knobs&) {
                const Tensor& y = call["y"];
                return y.sizes[0] * y.sizes[1] * parts(packs_of(y.sizes[3]), 8);
              },
          .threads = [](const Knobs&) { return int64_t{256}; },
          .arguments = {"dy", "y", {"dx", "dx"}, {"rows", [](const Call& call) {
                                                    return call["y"].sizes[0] * call["y"].sizes[1];
                                                  }}}};
}

void check(const Call& call, std::string_view squares, int square_dim, std::string_view meaning) {
  require_dims(call, squares, 4, meaning);
  const Tensor& x = call[squares];
  if (x.sizes[square_dim] != x.sizes[square_dim + 1])
    call.refuse(squares, "has shape " + shape_text(x), std::string(meaning));
}

Dtype dtype_of_x(const Call& call) { return call["x"].dtype; }

const Register to_channels_last{Op{
    .name = "triangle_to_channels_last",
    .doc = "y [batch, N, N, channels] = x [batch, channels, N, N] up to the diagonal; 0 beyond",
    .internal = true,
    .inputs = {dense("x")},
    .outputs =
        {{"y",
          [](const Call&) {
            return sized({size_of("x", 0), size_of("x", 2), size_of("x", 3), size_of("x", 1)});
          },
          dtype_of_x}},
    .check = [](const Call& call) { check(call, "x", 2, "[batch, channels, N, N]"); },
    .kernels = {kernel(true)},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["batch"], e["inner"], e["size"], e["size"]}}};
    },
    .sizes = example_sizes({{"batch", 1, "sequences"}}),
}};

const Register from_channels_last{Op{
    .name = "triangle_from_channels_last",
    .doc = "y [batch, channels, N, N] = x [batch, N, N, channels] + bias up to the diagonal; 0 "
           "beyond",
    .internal = true,
    .inputs = {dense("x"), optional(dense("bias"))},
    .outputs =
        {{"y",
          [](const Call&) {
            return sized({size_of("x", 0), size_of("x", 3), size_of("x", 1), size_of("x", 2)});
          },
          dtype_of_x}},
    .check =
        [](const Call& call) {
          check(call, "x", 1, "[batch, N, N, channels]");
          require_same_dtype(call, "x", "bias");
          if (call.has("bias")) require_vector(call, "bias", "x");
        },
    .kernels = {kernel(false)},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["batch"], e["size"], e["size"], e["inner"]}},
              {.input = "bias", .shape = {e["inner"]}}};
    },
    .sizes = example_sizes({{"batch", 1, "sequences"}}),
}};

const Register softmax_from_channels_last{Op{
    .name = "causal_softmax_backward_from_channels_last",
    .doc = "dx [batch, channels, N, N] = y * (dy - sum(y * dy)) up to the diagonal, of y and dy "
           "[batch, N, N, channels]; 0 beyond",
    .internal = true,
    .inputs = {dense("dy"), dense("y")},
    .outputs =
        {{"dx",
          [](const Call&) {
            return sized({size_of("y", 0), size_of("y", 3), size_of("y", 1), size_of("y", 2)});
          },
          [](const Call& call) { return call["y"].dtype; }}},
    .check =
        [](const Call& call) {
          check(call, "y", 1, "[batch, N, N, channels]");
          require_same_shape(call, "y", "dy");
          require_same_dtype(call, "y", "dy");
        },
    .kernels = {softmax_backward()},
    .example = [](const Extent& e) -> std::vector<Sample> {
      const std::vector<int64_t> shape = {e["batch"], e["size"], e["size"], e["inner"]};
      return {{.input = "dy", .shape = shape}, {.input = "y", .shape = shape}};
    },
    .sizes = example_sizes({{"batch", 1, "sequences"}}),
}};

}  // namespace
}  // namespace liger
