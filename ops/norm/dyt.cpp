#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

Dtype x_dtype(const Call& call) { return call["x"].dtype; }
Dtype alpha_dtype(const Call& call) { return call["alpha"].dtype; }
Dtype gamma_dtype(const Call& call) { return call["gamma"].dtype; }
Dtype beta_dtype(const Call& call) {
  return call.has("beta") ? call["beta"].dtype : call["gamma"].dtype;
}

bool wants_dx(const Call& call) { return call.wants_grad(0); }
bool wants_dalpha(const Call& call) { return call.wants_grad(1); }
bool wants_dgamma(const Call& call) { return call.wants_grad(2); }
bool wants_dbeta(const Call& call) { return call.wants_grad(3) && call.has("beta"); }

int64_t partials_of(const Call& call) {
  return partial_rows(call, call["x"].rows(), call["x"].last_size());
}

int64_t columns_of_alpha(const Call& call) { return wants_dalpha(call) ? 1 : 0; }
int64_t columns_of_gamma(const Call& call) {
  return wants_dgamma(call) ? call["x"].last_size() : 0;
}
int64_t columns_of_beta(const Call& call) { return wants_dbeta(call) ? call["x"].last_size() : 0; }

Temporary partials(std::string name, int64_t (*columns)(const Call&)) {
  return {std::move(name), [columns](const Call& call) -> int64_t {
            return partials_of(call) * padded_columns(columns(call)) *
                   size_bytes(arithmetic(x_dtype(call)));
          }};
}

void check(const Call& call) {
  require_number(call, "alpha");
  require_vector(call, "gamma", "x");
  require_vector(call, "beta", "x");
}

const Register dyt{Op{
    .name = "dyt",
    .doc = "y = gamma * tanh(alpha * x) + beta",
    .inputs = {rows("x"), dense("alpha"), dense("gamma"), optional(dense("beta"))},
    .outputs = {{"y", [](const Call&) { return like("x"); }, x_dtype}},
    .check = check,
    .kernels =
        {{.name = "DytForward",
          .source = "norm/dyt.h",
          .spec = [](const Call& call) -> Spec {
            return {{"x", x_dtype(call)},
                    {"alpha", alpha_dtype(call)},
                    {"gamma", gamma_dtype(call)},
                    {"beta", beta_dtype(call)},
                    {"has_beta", call.has("beta")},
                    {"hidden", call["x"].last_size()},
                    {"align_bytes", int64_t{call.align_bytes()}}};
          },
          .candidates =
              [](const Call& call) { return row_candidates(call, call["x"].last_size(), 0); },
          .blocks = [](const Call& call,
                       const Knobs& knobs) { return row_blocks(call["x"].rows(), knobs); },
          .arguments =
              {"x", "alpha", "gamma", "beta", "y", {"rows", "x.rows"}, {"x_stride", "x.stride"}}}},
    .gradient = {.backward = "dyt_backward",
                 .saved = {"x", "alpha", "gamma", "beta"},
                 .of = {{"x", "dx"}, {"alpha", "dalpha"}, {"gamma", "dgamma"}, {"beta", "dbeta"}}},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "alpha", .shape = {1}},
              {.input = "gamma", .shape = {e["size"]}},
              {.input = "beta", .shape = {e["size"]}}};
    },
    .bench = {{"hidden-4096", {{"rows", 16384}, {"size", 4096}}},
              {"hidden-8192", {{"rows", 16384}, {"size", 8192}}}},
}};

const Register dyt_backward{Op{
    .name = "dyt_backward",
    .doc = "gradients: dx = alpha * g, dalpha = sum(g * x), g = dy * gamma * (1 - tanh^2)",
    .internal = true,
    .inputs = {rows("dy"), rows("x"), dense("alpha"), dense("gamma"), optional(dense("beta")),
               mask("output_mask", 4)},
    .outputs =
        {{"dx", [](const Call& call) { return wants_dx(call) ? like("x") : empty(); }, x_dtype},
         {"dalpha", [](const Call& call) { return wants_dalpha(call) ? like("alpha") : empty(); },
          alpha_dtype},
         {"dgamma", [](const Call& call) { return wants_dgamma(call) ? like("gamma") : empty(); },
          gamma_dtype},
         {"dbeta", [](const Call& call) { return wants_dbeta(call) ? like("beta") : empty(); },
          beta_dtype}},
    .temporaries = {partials("alpha_partials", columns_of_alpha),
                    partials("gamma_partials", columns_of_gamma),
                    partials("beta_partials", columns_of_beta)},
    .check =
        [](const Call& call) {
          check(call);
          require_same_shape(call, "x", "dy");
          require_same_dtype(call, "x", "dy");
        },
    .kernels = {{.name = "DytBackward",
                 .source = "norm/dyt.h",
                 .when = [](const Call& call) { return call["x"].rows() > 0; },
                 .spec = [](const Call& call) -> Spec {
                   return {{"x", x_dtype(call)},
                           {"alpha", alpha_dtype(call)},
                           {"gamma", gamma_dtype(call)},
                           {"want_dx", wants_dx(call)},
                           {"want_dalpha", wants_dalpha(call)},
                           {"want_dgamma", wants_dgamma(call)},
                           {"want_dbeta", wants_dbeta(call)},
                           {"hidden", call["x"].last_size()},
                           {"align_bytes", int64_t{call.align_bytes()}},
                           {"hold", holds(call, "x", 4)}};
                 },
                 .candidates =
                     [](const Call& call) {
                       return partial_candidates(call, call["x"].last_size(),
                                                 holds(call, "x", 4) ? 5 : 0);
                     },
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(partials_of(call), knobs); },
                 .arguments = {"dy",
                               "x",
                               "alpha",
                               "gamma",
                               "dx",
                               "alpha_partials",
                               "gamma_partials",
                               "beta_partials",
                               {"rows", "x.rows"},
                               {"partial_rows", partials_of},
                               {"dy_stride", "dy.stride"},
                               {"x_stride", "x.stride"}}},
                column_sum({{"gamma_partials", "dgamma", gamma_dtype, columns_of_gamma},
                            {"beta_partials", "dbeta", beta_dtype, columns_of_beta},
                            {"alpha_partials", "dalpha", alpha_dtype, columns_of_alpha}},
                           "x",
                           [](const Call& call) {
                             return wants_dalpha(call) || wants_dgamma(call) || wants_dbeta(call);
                           })},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "dy", .shape = {e["rows"], e["size"]}},
              {.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "alpha", .shape = {1}},
              {.input = "gamma", .shape = {e["size"]}},
              {.input = "beta", .shape = {e["size"]}},
              {.input = "output_mask", .value = 15}};
    },
}};

}  // namespace
}  // namespace liger
