// Parts of composites that put the channels of causal matrices last, for a convolution, and back.
#include <algorithm>

#include "base/text.h"
#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

constexpr int64_t pack = 8;

int64_t packs_of(int64_t size) { return (size + pack - 1) / pack; }

// As the template deals them out.
int64_t units_of_row(int64_t width, int64_t channels) {
  const int64_t neighbours = std::min<int64_t>(packs_of(channels), 8);
  if (neighbours == 0) return 0;
  return (packs_of(channels) + neighbours - 1) / neighbours * packs_of(width) * neighbours;
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
                             {"adds_bias", with_bias(call)},
                             {"clears", to_channels_last || call.flag("clears")}};
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
                         return (units + of_block - 1) / of_block;
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

void check(const Call& call, int square_dim, std::string_view meaning) {
  require_dims(call, "x", 4, meaning);
  const Tensor& x = call["x"];
  if (x.sizes[square_dim] != x.sizes[square_dim + 1])
    call.refuse("x", "has shape " + shape_text(x), std::string(meaning));
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
    .check = [](const Call& call) { check(call, 2, "[batch, channels, N, N]"); },
    .kernels = {kernel(true)},
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["batch"], e["inner"], e["size"], e["size"]}}};
    },
    .sizes = example_sizes({{"batch", 1, "sequences"}}),
}};

const Register from_channels_last{Op{
    .name = "triangle_from_channels_last",
    .doc = "y [batch, channels, N, N] = x [batch, N, N, channels] + bias up to the diagonal; 0 "
           "beyond, or nothing written there unless it `clears`",
    .internal = true,
    .inputs = {dense("x"), optional(dense("bias")), flag("clears", true)},
    .outputs =
        {{"y",
          [](const Call&) {
            return sized({size_of("x", 0), size_of("x", 3), size_of("x", 1), size_of("x", 2)});
          },
          dtype_of_x}},
    .check =
        [](const Call& call) {
          check(call, 1, "[batch, N, N, channels]");
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

}  // namespace
}  // namespace liger
