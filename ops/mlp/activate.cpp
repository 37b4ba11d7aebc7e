#include "ops/mlp/activation.h"

#include "base/parts.h"
#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

Shape shape_of_x(const Call&) { return like("x"); }
Dtype dtype_of_x(const Call& call) { return call["x"].dtype; }
Dtype dtype_of_bias(const Call& call) { return call[call.has("bias") ? "bias" : "x"].dtype; }

void check_bias(const Call& call) { require_vector(call, "bias", "x"); }

Spec activation_spec(const Call& call) {
  return {{"x", call["x"].dtype},           {"bias", dtype_of_bias(call)},
          {"has_bias", call.has("bias")},   {"activation", call.integer("activation")},
          {"width", call["x"].last_size()}, {"align_bytes", int64_t{call.align_bytes()}}};
}

bool wants_dbias(const Call& call) { return call.has("bias") && call.wants_grad(1); }

int64_t partials_of(const Call& call) {
  return partial_rows(call, call["x"].rows(), call["x"].last_size());
}

// Threads that share a row's columns, a pack each; on the host one has them all.
int64_t tiles_of(const Call& call, const Knobs& knobs) {
  if (call.on_host()) return 1;
  const int64_t threads = value_of(knobs, "threads", 1);
  return parts(packs_of(call["x"].last_size()), threads);
}

std::vector<Knobs> tile_candidates(const Call& call) {
  if (call.on_host()) return {{{"threads", 1}}};
  return {{{"threads", 128}}, {{"threads", 64}}, {{"threads", 256}}};
}

KernelOf by_rows(std::string name, std::function<bool(const Call&)> when,
                 std::vector<Argument> arguments) {
  return {
      .name = std::move(name),
      .source = "mlp/activate.h",
      .when = std::move(when),
      .spec = activation_spec,
      .candidates = [](const Call& call) { return row_candidates(call, call["x"].last_size(), 0); },
      .blocks = [](const Call& call,
                   const Knobs& knobs) { return row_blocks(call["x"].rows(), knobs); },
      .arguments = std::move(arguments)};
}

// The gradient of x with partial sums of it for the bias.
KernelOf by_columns() {
  return {.name = "ActivateBiasBackward",
          .source = "mlp/activate.h",
          .when = [](const Call& call) { return wants_dbias(call) && call["x"].rows() > 0; },
          .spec = [](const Call& call) -> Spec {
            Spec spec = activation_spec(call);
            spec.insert(spec.end() - 2, {"want_dx", call.wants_grad(0)});
            return spec;
          },
          .candidates = tile_candidates,
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return partials_of(call) * tiles_of(call, knobs); },
          .threads = [](const Knobs& knobs) { return value_of(knobs, "threads", 1); },
          .arguments = {"dy",
                        "x",
                        "bias",
                        "dx",
                        "partials",
                        {"rows", "x.rows"},
                        {"partial_rows", partials_of},
                        {"dy_stride", "dy.stride"},
                        {"x_stride", "x.stride"}}};
}

const Register activate{Op{
    .name = "activate",
    .doc = "y = act(x + bias): GELU in its tanh form, exact or as x * sigmoid(1.702 x), or SiLU",
    .inputs = {rows("x"), optional(dense("bias")), activation_choice("gelu_tanh")},
    .outputs = {{"y", shape_of_x, dtype_of_x}},
    .check = check_bias,
    .kernels = {by_rows("ActivateForward", {},
                        {"x", "bias", "y", {"rows", "x.rows"}, {"x_stride", "x.stride"}})},
    .gradient = {.backward = "activate_backward",
                 .saved = {"x", "bias"},
                 .of = {{"x", "dx"}, {"bias", "dbias"}}},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "bias", .shape = {e["size"]}}};
    },
    .bench = {{"width-4096", {{"rows", 16384}, {"size", 4096}}},
              {"width-14336", {{"rows", 8192}, {"size", 14336}}}},
}};

const Register activate_backward{Op{
    .name = "activate_backward",
    .doc = "dx = dy * act'(x + bias), and its sum over rows for the bias",
    .internal = true,
    .inputs = {rows("dy"), rows("x"), optional(dense("bias")), activation_choice("gelu_tanh"),
               mask("output_mask", 2)},
    .outputs = {{"dx", [](const Call& call) { return call.wants_grad(0) ? like("x") : empty(); },
                 dtype_of_x},
                {"dbias",
                 [](const Call& call) { return wants_dbias(call) ? like("bias") : empty(); },
                 dtype_of_bias}},
    .temporaries = {{"partials",
                     [](const Call& call) -> int64_t {
                       if (!wants_dbias(call)) return 0;
                       return partials_of(call) * padded_columns(call["x"].last_size()) *
                              size_bytes(arithmetic(call["x"].dtype));
                     }}},
    .check =
        [](const Call& call) {
          check_bias(call);
          require_same_shape(call, "x", "dy");
          require_same_dtype(call, "x", "dy");
        },
    .kernels = {by_rows("ActivateBackward",
                        [](const Call& call) { return call.wants_grad(0) && !wants_dbias(call); },
                        {"dy",
                         "x",
                         "bias",
                         "dx",
                         {"rows", "x.rows"},
                         {"dy_stride", "dy.stride"},
                         {"x_stride", "x.stride"}}),
                by_columns(), column_sum({{"partials", "dbias", dtype_of_bias}}, "x", wants_dbias)},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "dy", .shape = {e["rows"], e["size"]}},
              {.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "bias", .shape = {e["size"]}},
              {.input = "activation", .value = 1},
              {.input = "output_mask", .value = 3}};
    },
}};

}  // namespace
}  // namespace liger
