#include "engine/registry.h"
#include "ops/norm/norm.h"

namespace liger {

bool round_early(const Call& call) {
  return call.integer("casting_mode") == static_cast<int64_t>(CastingMode::llama);
}

Dtype weight_dtype(const Call& call, std::string_view like) {
  return call.has("weight") ? call["weight"].dtype : call[like].dtype;
}

Input keeps_statistics() { return flag("keep_statistics"); }

Shape statistics_shape(const Call& call) {
  return call.flag(keeps_statistics().name) ? rows_of("x") : empty();
}

void require_statistics(const Call& call, std::string_view name) {
  const int64_t rows = call["x"].rows();
  if (call[name].count() == rows) return;
  call.refuse(name, "has shape " + shape_text(call[name]),
              std::to_string(rows) + " elements, which the forward keeps where it is asked to");
}

Dtype norm_output_dtype(const Call& call) {
  const Dtype x = call["x"].dtype;
  if (!call.flag("promote") || !call.has("weight") || call["weight"].dtype == x) return x;
  if (x == Dtype::f64 || call["weight"].dtype == Dtype::f64) return Dtype::f64;
  return Dtype::f32;  // also of bfloat16 with float16
}

void check_norm(const Call& call) {
  require_vector(call, "weight", "x");
  require_eps(call);
}

Input casting_mode() { return choice("casting_mode", {"llama", "gemma", "none"}, "llama"); }

namespace {

const Register rms_norm{Op{
    .name = "rms_norm",
    .doc = "y = x * rsqrt(mean(x^2) + eps) * (offset + weight), over the last dimension",
    .inputs = {rows("x"), optional(dense("weight")), real("eps", "1e-06"), real("offset", "0.0"),
               casting_mode(), flag("promote"), keeps_statistics()},
    .outputs = {{"y", [](const Call&) { return like("x"); }, norm_output_dtype},
                {"rstd", statistics_shape,
                 [](const Call& call) { return arithmetic(call["x"].dtype); }, false}},
    .check = check_norm,
    .kernels = {rms_norm_kernel("RmsNormForward", "norm/rms_norm.h", Adds::nothing)},
    .gradient = {.backward = "rms_norm_backward",
                 .saved = {"x", "weight", "rstd"},
                 .of = {{"x", "dx"}, {"weight", "dweight"}},
                 .needs_grad_flag = keeps_statistics().name},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "weight", .shape = {e["size"]}}};
    },
    .bench = {{"hidden-1024", {{"rows", 16384}, {"size", 1024}}},
              {"hidden-2880", {{"rows", 16384}, {"size", 2880}}},
              {"hidden-4096", {{"rows", 16384}, {"size", 4096}}},
              {"hidden-8192", {{"rows", 16384}, {"size", 8192}}}},
}};

const Register rms_norm_backward{rms_norm_backward_op("rms_norm_backward", false)};

}  // namespace

KernelOf rms_norm_kernel(std::string name, std::string source, Adds adds) {
  // Of the row that a thread keeps; of a norm that is added to something, also of that.
  const int copies = adds == Adds::after ? 2 : 1;
  std::vector<Argument> arguments = {"x"};
  if (adds != Adds::nothing) arguments.emplace_back("residual");
  arguments.insert(arguments.end(), {"weight", "y"});
  if (adds == Adds::before) arguments.emplace_back("sum");
  arguments.insert(arguments.end(), {"rstd", {"rows", "x.rows"}, {"x_stride", "x.stride"}});
  if (adds != Adds::nothing) arguments.emplace_back("residual_stride", "residual.stride");
  arguments.insert(arguments.end(), {"eps", "offset"});
  return {.name = std::move(name),
          .source = std::move(source),
          .spec = [](const Call& call) -> Spec {
            return {{"x", call["x"].dtype},
                    {"weight", weight_dtype(call, "x")},
                    {"y", norm_output_dtype(call)},
                    {"has_weight", call.has("weight")},
                    {"round_early", round_early(call)},
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

Op rms_norm_backward_op(std::string name, bool with_dsum) {
  const auto wants_dweight = [](const Call& call) {
    return call.wants_grad(1) && call.has("weight");
  };
  const auto wants_dx = [](const Call& call) { return call.wants_grad(0); };
  Op op;
  op.name = std::move(name);
  op.doc =
      "gradients of the norm: dx = rstd * (m - xhat * mean(m * xhat)), m = dy * (offset + weight)";
  op.internal = true;
  op.sharding = Sharding::rows;
  op.inputs = {rows("dy")};
  if (with_dsum) op.inputs.push_back(optional(rows("dsum")));
  op.inputs.insert(op.inputs.end(), {rows("x"), optional(dense("weight")), dense("rstd"),
                                     real("eps", "1e-06"), real("offset", "0.0"), casting_mode(),
                                     flag("promote"), mask("output_mask", 2)});
  op.outputs = {
      {"dx", [wants_dx](const Call& call) { return wants_dx(call) ? like("x") : empty(); },
       [](const Call& call) { return call["x"].dtype; }},
      {"dweight",
       [wants_dweight](const Call& call) { return wants_dweight(call) ? like("weight") : empty(); },
       [](const Call& call) { return weight_dtype(call, "x"); }}};
  op.temporaries = {{"partials", [wants_dweight](const Call& call) -> int64_t {
                       if (!wants_dweight(call)) return 0;
                       const Tensor& x = call["x"];
                       return partial_rows(call, x.rows(), x.last_size()) *
                              padded_columns(x.last_size()) * size_bytes(arithmetic(x.dtype));
                     }}};
  op.check = [with_dsum](const Call& call) {
    check_norm(call);
    require_statistics(call, "rstd");
    require_same_shape(call, "x", "dy");
    if (with_dsum && call.has("dsum")) {
      require_same_shape(call, "x", "dsum");
      require_same_dtype(call, "x", "dsum");
    }
  };
  op.kernels = {
      {.name = "RmsNormBackward",
       .source = "norm/rms_norm.h",
       .when = [](const Call& call) { return call["x"].rows() > 0; },
       .spec = [with_dsum, wants_dx, wants_dweight](const Call& call) -> Spec {
         return {{"x", call["x"].dtype},
                 {"weight", weight_dtype(call, "x")},
                 {"dy", call["dy"].dtype},
                 {"has_weight", call.has("weight")},
                 {"round_early", round_early(call)},
                 {"adds_dsum", with_dsum && call.has("dsum")},
                 {"want_dx", wants_dx(call)},
                 {"want_dweight", wants_dweight(call)},
                 {"hidden", call["x"].last_size()},
                 {"align_bytes", int64_t{call.align_bytes()}},
                 {"hold", holds(call, "x", 3)}};
       },
       .candidates =
           [](const Call& call) {
             return partial_candidates(call, call["x"].last_size(), holds(call, "x", 3) ? 4 : 0);
           },
       .blocks =
           [](const Call& call, const Knobs& knobs) {
             return row_blocks(partial_rows(call, call["x"].rows(), call["x"].last_size()), knobs);
           },
       .arguments = {"dy",
                     {"dsum", with_dsum ? "dsum" : "x"},
                     "x",
                     "weight",
                     "rstd",
                     "dx",
                     "partials",
                     {"rows", "x.rows"},
                     {"partial_rows",
                      [](const Call& call) {
                        return partial_rows(call, call["x"].rows(), call["x"].last_size());
                      }},
                     {"dy_stride", "dy.stride"},
                     {"dsum_stride", with_dsum ? "dsum.stride" : "x.stride"},
                     {"x_stride", "x.stride"},
                     "offset"}},
      column_sum(
          {{"partials", "dweight", [](const Call& call) { return weight_dtype(call, "x"); }}}, "x",
          wants_dweight)};
  op.example = [with_dsum](const Extent& e) {
    std::vector<Sample> samples = {{.input = "dy", .shape = {e["rows"], e["size"]}}};
    if (with_dsum) samples.push_back({.input = "dsum", .shape = {e["rows"], e["size"]}});
    samples.insert(samples.end(), {{.input = "x", .shape = {e["rows"], e["size"]}},
                                   {.input = "weight", .shape = {e["size"]}},
                                   {.input = "rstd", .shape = {e["rows"]}, .dtype = "arithmetic"},
                                   {.input = "eps", .value = 1e-6},
                                   {.input = "offset", .value = 0.0},
                                   {.input = "casting_mode", .value = 0},
                                   {.input = "promote", .value = 0},
                                   {.input = "output_mask", .value = 3}});
    return samples;
  };
  return op;
}

}  // namespace liger
