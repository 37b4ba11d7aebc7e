#include "engine/registry.h"
#include "ops/norm/norm.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

Dtype x_dtype(const Call& call) { return call["x"].dtype; }
Dtype weight_type(const Call& call) { return call["weight"].dtype; }
Dtype bias_type(const Call& call) { return call["bias"].dtype; }

bool wants_dx(const Call& call) { return call.wants_grad(0); }
bool wants_dweight(const Call& call) { return call.wants_grad(1); }
bool wants_dbias(const Call& call) { return call.wants_grad(2); }

constexpr int64_t powers = 3;

int64_t partials_of(const Call& call) {
  return partial_rows(call, call["x"].rows(), call["x"].last_size());
}

int64_t columns_of_weight(const Call& call) { return wants_dweight(call) ? powers : 0; }
int64_t columns_of_bias(const Call& call) { return wants_dbias(call) ? 1 : 0; }

Temporary partials(std::string name, int64_t (*columns)(const Call&)) {
  return {std::move(name), [columns](const Call& call) -> int64_t {
            return partials_of(call) * padded_columns(columns(call)) *
                   size_bytes(arithmetic(x_dtype(call)));
          }};
}

Shape shape_of_rstd(const Call& call) {
  return call.flag(keeps_statistics().name) ? followed_by(rows_of("x"), {powers}) : empty();
}

void check(const Call& call) {
  const Tensor& weight = call["weight"];
  if (weight.dims != 1 || weight.sizes[0] != powers) {
    call.refuse("weight", "has shape " + shape_text(weight),
                "[3]: of the third power, the second and the first");
  }
  require_number(call, "bias");
  require_eps(call);
}

const Register poly_norm{Op{
    .name = "poly_norm",
    .doc = "y = w0 * norm(x^3) + w1 * norm(x^2) + w2 * norm(x) + bias, over the last dimension; "
           "norm(u) = u * rsqrt(mean(u^2) + eps)",
    .inputs = {rows("x"), dense("weight"), dense("bias"), real("eps", "1e-06"), keeps_statistics()},
    .outputs = {{"y", [](const Call&) { return like("x"); }, x_dtype},
                {"rstd", shape_of_rstd, [](const Call& call) { return arithmetic(x_dtype(call)); },
                 false}},
    .check = check,
    .kernels = {{.name = "PolyNormForward",
                 .source = "norm/poly_norm.h",
                 .spec = [](const Call& call) -> Spec {
                   return {{"x", x_dtype(call)},
                           {"weight", weight_type(call)},
                           {"bias", bias_type(call)},
                           {"hidden", call["x"].last_size()},
                           {"align_bytes", int64_t{call.align_bytes()}},
                           {"hold", holds(call, "x", 1)}};
                 },
                 .candidates =
                     [](const Call& call) {
                       return row_candidates(call, call["x"].last_size(),
                                             holds(call, "x", 1) ? 1 : 0);
                     },
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(call["x"].rows(), knobs); },
                 .arguments = {"x",
                               "weight",
                               "bias",
                               "y",
                               "rstd",
                               {"rows", "x.rows"},
                               {"x_stride", "x.stride"},
                               "eps"}}},
    .gradient = {.backward = "poly_norm_backward",
                 .saved = {"x", "weight", "bias", "rstd"},
                 .of = {{"x", "dx"}, {"weight", "dweight"}, {"bias", "dbias"}},
                 .needs_grad_flag = keeps_statistics().name},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "weight", .shape = {powers}},
              {.input = "bias", .shape = {}}};
    },
    .bench = {{"hidden-4096", {{"rows", 16384}, {"size", 4096}}},
              {"hidden-8192", {{"rows", 16384}, {"size", 8192}}}},
}};

const Register poly_norm_backward{Op{
    .name = "poly_norm_backward",
    .doc = "gradients of poly_norm, from the row's sums of dy times the powers of x",
    .internal = true,
    .inputs = {rows("dy"), rows("x"), dense("weight"), dense("bias"), dense("rstd"),
               real("eps", "1e-06"), mask("output_mask", 3)},
    .outputs = {{"dx", [](const Call& call) { return wants_dx(call) ? like("x") : empty(); },
                 x_dtype},
                {"dweight",
                 [](const Call& call) { return wants_dweight(call) ? like("weight") : empty(); },
                 weight_type},
                {"dbias",
                 [](const Call& call) { return wants_dbias(call) ? like("bias") : empty(); },
                 bias_type}},
    .temporaries = {partials("weight_partials", columns_of_weight),
                    partials("bias_partials", columns_of_bias)},
    .check =
        [](const Call& call) {
          check(call);
          require_same_shape(call, "x", "dy");
          require_same_dtype(call, "x", "dy");
          const int64_t wanted = call["x"].rows() * powers;
          if (call["rstd"].count() != wanted) {
            call.refuse("rstd", "has shape " + shape_text(call["rstd"]),
                        std::to_string(wanted) + " elements, three of each row");
          }
        },
    .kernels = {{.name = "PolyNormBackward",
                 .source = "norm/poly_norm.h",
                 .when = [](const Call& call) { return call["x"].rows() > 0; },
                 .spec = [](const Call& call) -> Spec {
                   return {{"x", x_dtype(call)},
                           {"weight", weight_type(call)},
                           {"want_dx", wants_dx(call)},
                           {"want_dweight", wants_dweight(call)},
                           {"want_dbias", wants_dbias(call)},
                           {"hidden", call["x"].last_size()},
                           {"align_bytes", int64_t{call.align_bytes()}},
                           {"hold", holds(call, "x", 2)}};
                 },
                 .candidates =
                     [](const Call& call) {
                       // Of a row and the next one, and of the first what is made of it.
                       const int arrays = size_bytes(x_dtype(call)) > 2 ? 7 : 4;
                       return partial_candidates(call, call["x"].last_size(),
                                                 holds(call, "x", 2) ? arrays : 0);
                     },
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(partials_of(call), knobs); },
                 .arguments = {"dy",
                               "x",
                               "weight",
                               "rstd",
                               "dx",
                               "weight_partials",
                               "bias_partials",
                               {"rows", "x.rows"},
                               {"partial_rows", partials_of},
                               {"dy_stride", "dy.stride"},
                               {"x_stride", "x.stride"}}},
                column_sum(
                    {{"weight_partials", "dweight", weight_type, columns_of_weight},
                     {"bias_partials", "dbias", bias_type, columns_of_bias}},
                    "x",
                    [](const Call& call) { return wants_dweight(call) || wants_dbias(call); })},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "dy", .shape = {e["rows"], e["size"]}},
              {.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "weight", .shape = {powers}},
              {.input = "bias", .shape = {}},
              {.input = "rstd", .shape = {e["rows"], powers}, .dtype = "arithmetic"},
              {.input = "eps", .value = 1e-6},
              {.input = "output_mask", .value = 7}};
    },
}};

}  // namespace
}  // namespace liger
