#include "engine/registry.h"
#include "ops/norm/norm.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

Dtype dtype_or(const Call& call, std::string_view tensor, std::string_view like) {
  return call.has(tensor) ? call[tensor].dtype : call[like].dtype;
}

Dtype x_dtype(const Call& call) { return call["x"].dtype; }
Dtype statistics_dtype(const Call& call) { return arithmetic(call["x"].dtype); }

bool wants_dx(const Call& call) { return call.wants_grad(0); }
bool wants_dweight(const Call& call) { return call.wants_grad(1) && call.has("weight"); }
bool wants_dbias(const Call& call) { return call.wants_grad(2) && call.has("bias"); }

int64_t partials_of(const Call& call) {
  return partial_rows(call, call["x"].rows(), call["x"].last_size());
}

Temporary partials(std::string name, bool (*wanted)(const Call&)) {
  return {std::move(name), [wanted](const Call& call) -> int64_t {
            if (!wanted(call)) return 0;
            return partials_of(call) * padded_columns(call["x"].last_size()) *
                   size_bytes(statistics_dtype(call));
          }};
}

// Functions: other files' ops may be made before this file's constants are.
Partials partials_of_weight() {
  return {"weight_partials", "dweight",
          [](const Call& call) { return dtype_or(call, "weight", "x"); }};
}
Partials partials_of_bias() {
  return {"bias_partials", "dbias", [](const Call& call) { return dtype_or(call, "bias", "x"); }};
}

const Register layer_norm{Op{
    .name = "layer_norm",
    .doc = "y = (x - mean) * rsqrt(variance + eps) * weight + bias, over the last dimension",
    .inputs = {rows("x"), optional(dense("weight")), optional(dense("bias")), real("eps", "1e-06"),
               keeps_statistics()},
    .outputs = {{"y", [](const Call&) { return like("x"); }, x_dtype},
                {"mean", statistics_shape, statistics_dtype, false},
                {"rstd", statistics_shape, statistics_dtype, false}},
    .check =
        [](const Call& call) {
          require_vector(call, "weight", "x");
          require_vector(call, "bias", "x");
          require_eps(call);
        },
    .kernels = {layer_norm_kernel("LayerNormForward", "norm/layer_norm.h", Adds::nothing)},
    .gradient = {.backward = "layer_norm_backward",
                 .saved = {"x", "weight", "bias", "mean", "rstd"},
                 .of = {{"x", "dx"}, {"weight", "dweight"}, {"bias", "dbias"}},
                 .needs_grad_flag = keeps_statistics().name},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "weight", .shape = {e["size"]}},
              {.input = "bias", .shape = {e["size"]}}};
    },
    .bench = {{"hidden-4096", {{"rows", 16384}, {"size", 4096}}}},
}};

const Register layer_norm_backward{layer_norm_backward_op("layer_norm_backward", false)};

}  // namespace

KernelOf layer_norm_kernel(std::string name, std::string source, Adds adds) {
  // Of the row that a thread keeps; of a norm that is added to something, also of that.
  const int copies = adds == Adds::after ? 2 : 1;
  std::vector<Argument> arguments = {"x"};
  if (adds != Adds::nothing) arguments.emplace_back("residual");
  arguments.insert(arguments.end(), {"weight", "bias", "y"});
  if (adds == Adds::before) arguments.emplace_back("sum");
  arguments.insert(arguments.end(), {"mean", "rstd", {"rows", "x.rows"}, {"x_stride", "x.stride"}});
  if (adds != Adds::nothing) arguments.emplace_back("residual_stride", "residual.stride");
  arguments.emplace_back("eps");
  return {.name = std::move(name),
          .source = std::move(source),
          .spec = [](const Call& call) -> Spec {
            return {{"x", x_dtype(call)},
                    {"weight", dtype_or(call, "weight", "x")},
                    {"bias", dtype_or(call, "bias", "x")},
                    {"has_weight", call.has("weight")},
                    {"has_bias", call.has("bias")},
                    {"hidden", call["x"].last_size()},
                    {"align_bytes", int64_t{call.align_bytes()}},
                    {"hold", holds(call, "x", 1)}};
          },
          .candidates =
              [copies](const Call& call) {
                return row_candidates(call, call["x"].last_size(),
                                      holds(call, "x", 1) ? copies : 0);
              },
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(call["x"].rows(), knobs); },
          .arguments = std::move(arguments)};
}

Op layer_norm_backward_op(std::string name, bool with_dsum) {
  Op op;
  op.name = std::move(name);
  op.doc = "gradients: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)), g = dy * weight";
  op.internal = true;
  op.sharding = Sharding::rows;
  op.inputs = {rows("dy")};
  if (with_dsum) op.inputs.push_back(optional(rows("dsum")));
  op.inputs.insert(op.inputs.end(),
                   {rows("x"), optional(dense("weight")), optional(dense("bias")), dense("mean"),
                    dense("rstd"), real("eps", "1e-06"), mask("output_mask", 3)});
  op.outputs = {
      {"dx", [](const Call& call) { return wants_dx(call) ? like("x") : empty(); }, x_dtype},
      {"dweight", [](const Call& call) { return wants_dweight(call) ? like("weight") : empty(); },
       [](const Call& call) { return dtype_or(call, "weight", "x"); }},
      {"dbias", [](const Call& call) { return wants_dbias(call) ? like("bias") : empty(); },
       [](const Call& call) { return dtype_or(call, "bias", "x"); }}};
  op.temporaries = {partials("weight_partials", wants_dweight),
                    partials("bias_partials", wants_dbias)};
  op.check = [with_dsum](const Call& call) {
    require_vector(call, "weight", "x");
    require_vector(call, "bias", "x");
    require_statistics(call, "mean");
    require_statistics(call, "rstd");
    require_same_shape(call, "x", "dy");
    require_same_dtype(call, "x", "dy");
    if (with_dsum && call.has("dsum")) {
      require_same_shape(call, "x", "dsum");
      require_same_dtype(call, "x", "dsum");
    }
  };
  op.kernels = {
      {.name = "LayerNormBackward",
       .source = "norm/layer_norm.h",
       .when = [](const Call& call) { return call["x"].rows() > 0; },
       .spec = [with_dsum](const Call& call) -> Spec {
         return {{"x", x_dtype(call)},
                 {"weight", dtype_or(call, "weight", "x")},
                 {"has_weight", call.has("weight")},
                 {"adds_dsum", with_dsum && call.has("dsum")},
                 {"want_dx", wants_dx(call)},
                 {"want_dweight", wants_dweight(call)},
                 {"want_dbias", wants_dbias(call)},
                 {"hidden", call["x"].last_size()},
                 {"align_bytes", int64_t{call.align_bytes()}},
                 {"hold", holds(call, "x", 4)}};
       },
       .candidates =
           [](const Call& call) {
             return partial_candidates(call, call["x"].last_size(), holds(call, "x", 4) ? 5 : 0);
           },
       .blocks = [](const Call& call,
                    const Knobs& knobs) { return row_blocks(partials_of(call), knobs); },
       .arguments = {"dy",
                     {"dsum", with_dsum ? "dsum" : "x"},
                     "x",
                     "weight",
                     "mean",
                     "rstd",
                     "dx",
                     "weight_partials",
                     "bias_partials",
                     {"rows", "x.rows"},
                     {"partial_rows", partials_of},
                     {"dy_stride", "dy.stride"},
                     {"dsum_stride", with_dsum ? "dsum.stride" : "x.stride"},
                     {"x_stride", "x.stride"}}},
      column_sum({partials_of_weight(), partials_of_bias()}, "x",
                 [](const Call& call) { return wants_dweight(call) && wants_dbias(call); }),
      column_sum({partials_of_weight()}, "x",
                 [](const Call& call) { return wants_dweight(call) && !wants_dbias(call); }),
      column_sum({partials_of_bias()}, "x",
                 [](const Call& call) { return wants_dbias(call) && !wants_dweight(call); })};
  op.example = [with_dsum](const Extent& e) {
    std::vector<Sample> samples = {{.input = "dy", .shape = {e["rows"], e["size"]}}};
    if (with_dsum) samples.push_back({.input = "dsum", .shape = {e["rows"], e["size"]}});
    samples.insert(samples.end(), {{.input = "x", .shape = {e["rows"], e["size"]}},
                                   {.input = "weight", .shape = {e["size"]}},
                                   {.input = "bias", .shape = {e["size"]}},
                                   {.input = "mean", .shape = {e["rows"]}, .dtype = "arithmetic"},
                                   {.input = "rstd", .shape = {e["rows"]}, .dtype = "arithmetic"},
                                   {.input = "eps", .value = 1e-6},
                                   {.input = "output_mask", .value = 7}});
    return samples;
  };
  return op;
}

}  // namespace liger
