#include <numeric>

#include "base/text.h"
#include "engine/registry.h"
#include "ops/norm/norm.h"

namespace liger {
namespace {

// Kernels work on groups of rows: one group is the whole row where no size is given.
int64_t group_size(const Call& call) {
  const int64_t asked = call.integer("group_size");
  return asked > 0 ? asked : call["x"].last_size();
}
int64_t groups(const Call& call) { return call["x"].last_size() / group_size(call); }
int64_t group_rows(const Call& call) { return call["x"].rows() * groups(call); }

// A multiple of the groups: all rows of a partial are the same columns.
int64_t partials_of(const Call& call) {
  const int64_t rows = group_rows(call);
  const int64_t of = groups(call);
  return rows == 0 ? 0 : std::max(partial_rows(call, rows, group_size(call)) / of, int64_t{1}) * of;
}

// A group begins where its row does, or so many elements further on.
int64_t align_bytes(const Call& call) {
  int64_t bytes = call.align_bytes();
  if (groups(call) == 1) return bytes;
  for (const char* name : {"x", "gate", "weight"}) {
    if (call.has(name)) bytes = std::gcd(bytes, group_size(call) * size_bytes(call[name].dtype));
  }
  return bytes;
}

Shape statistics(const Call& call) {
  if (!call.flag(keeps_statistics().name)) return empty();
  const int64_t size = call.integer("group_size");
  return followed_by(rows_of("x"), {size > 0 ? size_of("x", -1) / size : Size(1)});
}

Dtype x_dtype(const Call& call) { return call["x"].dtype; }
Dtype gate_dtype(const Call& call) { return call["gate"].dtype; }
Dtype weight_dtype_of_x(const Call& call) { return weight_dtype(call, "x"); }

Input activation() { return choice("activation", {"silu", "sigmoid"}, "silu"); }

// Their product with the weight is of its dtype: rounded where that is x's.
bool round_weighted(const Call& call) {
  return round_early(call) && !call.flag("gate_first") && weight_dtype_of_x(call) == x_dtype(call);
}

void check(const Call& call) {
  check_norm(call);
  require_same_shape(call, "x", "gate");
  const int64_t size = call.integer("group_size");
  if (size < 0 || (size > 0 && call["x"].last_size() % size != 0)) {
    call.refuse("group_size", fmt::format("is {}", size),
                fmt::format("a divisor of {}, the last size of 'x', or 0 for all of it",
                            call["x"].last_size()));
  }
}

Spec spec(const Call& call, Spec wanted, bool hold) {
  Spec fields = {{"x", x_dtype(call)},
                 {"gate", gate_dtype(call)},
                 {"weight", weight_dtype_of_x(call)},
                 {"has_weight", call.has("weight")},
                 {"round_early", round_early(call)},
                 {"round_weighted", round_weighted(call)},
                 {"sigmoid", call.integer("activation") == 1},
                 {"gate_first", call.flag("gate_first")}};
  fields.insert(fields.end(), wanted.begin(), wanted.end());
  fields.push_back({"groups", groups(call)});
  fields.push_back({"size", group_size(call)});
  fields.push_back({"align_bytes", align_bytes(call)});
  fields.push_back({"hold", hold});
  return fields;
}

bool holds_forward(const Call& call) { return holds(call, group_size(call), 1); }
// Six rows are on their way, in 16 KiB or less each.
bool holds_backward(const Call& call) {
  return holds(call, group_size(call), 3) && group_size(call) * size_bytes(x_dtype(call)) <= 16384;
}

bool wants_dx(const Call& call) { return call.wants_grad(0); }
bool wants_dgate(const Call& call) { return call.wants_grad(1); }
bool wants_dweight(const Call& call) { return call.wants_grad(2) && call.has("weight"); }

// Of the example: the usual two groups, or one where they would not be alike.
int64_t example_group(const Extent& e) {
  return e["size"] % e["groups"] == 0 ? e["size"] / e["groups"] : 0;
}
const std::vector<ExampleSize> sizes = example_sizes({{"groups", 2, "groups of a row"}});

const Register gated_rms_norm{Op{
    .name = "gated_rms_norm",
    .doc = "y = rms_norm(x) * act(gate), or rms_norm(x * act(gate)), over groups of the last "
           "dimension",
    .inputs = {rows("x"), rows("gate"), optional(dense("weight")), real("eps", "1e-06"),
               real("offset", "0.0"), casting_mode(), activation(), flag("gate_first"),
               integer("group_size", 0), keeps_statistics()},
    .outputs = {{"y", [](const Call&) { return like("x"); }, x_dtype},
                {"rstd", statistics, [](const Call& call) { return arithmetic(x_dtype(call)); },
                 false}},
    .check = check,
    .kernels = {{.name = "GatedRmsNormForward",
                 .source = "norm/gated_rms_norm.h",
                 .spec = [](const Call& call) { return spec(call, {}, holds_forward(call)); },
                 .candidates =
                     [](const Call& call) {
                       return row_candidates(call, group_size(call), holds_forward(call) ? 2 : 0);
                     },
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(group_rows(call), knobs); },
                 .arguments = {"x",
                               "gate",
                               "weight",
                               "y",
                               "rstd",
                               {"rows", group_rows},
                               {"x_stride", "x.stride"},
                               {"gate_stride", "gate.stride"},
                               "eps",
                               "offset"}}},
    .gradient = {.backward = "gated_rms_norm_backward",
                 .saved = {"x", "gate", "weight", "rstd"},
                 .of = {{"x", "dx"}, {"gate", "dgate"}, {"weight", "dweight"}},
                 .needs_grad_flag = keeps_statistics().name},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "gate", .shape = {e["rows"], e["size"]}},
              {.input = "weight", .shape = {e["size"]}},
              {.input = "group_size", .value = static_cast<double>(example_group(e))}};
    },
    .sizes = sizes,
    .bench = {{"hidden-4096", {{"rows", 16384}, {"size", 4096}, {"groups", 1}}},
              {"heads-32-128", {{"rows", 524288}, {"size", 128}, {"groups", 1}}}},
}};

const Register gated_rms_norm_backward{Op{
    .name = "gated_rms_norm_backward",
    .doc = "gradients of the gated norm: v's is rstd * (m - xhat * mean(m * xhat))",
    .internal = true,
    .inputs = {rows("dy"), rows("x"), rows("gate"), optional(dense("weight")), dense("rstd"),
               real("eps", "1e-06"), real("offset", "0.0"), casting_mode(), activation(),
               flag("gate_first"), integer("group_size", 0), mask("output_mask", 3)},
    .outputs = {{"dx", [](const Call& call) { return wants_dx(call) ? like("x") : empty(); },
                 x_dtype},
                {"dgate",
                 [](const Call& call) { return wants_dgate(call) ? like("gate") : empty(); },
                 gate_dtype},
                {"dweight",
                 [](const Call& call) { return wants_dweight(call) ? like("weight") : empty(); },
                 weight_dtype_of_x}},
    .temporaries = {{"partials",
                     [](const Call& call) -> int64_t {
                       if (!wants_dweight(call)) return 0;
                       return partials_of(call) / groups(call) *
                              padded_columns(call["x"].last_size()) *
                              size_bytes(arithmetic(x_dtype(call)));
                     }}},
    .check =
        [](const Call& call) {
          check(call);
          require_same_shape(call, "x", "dy");
          require_same_dtype(call, "x", "dy");
          if (call["rstd"].count() != group_rows(call)) {
            call.refuse("rstd", "has shape " + shape_text(call["rstd"]),
                        fmt::format("{} elements, which the forward keeps where it is asked to",
                                    group_rows(call)));
          }
        },
    .kernels = {{.name = "GatedRmsNormBackward",
                 .source = "norm/gated_rms_norm.h",
                 .when = [](const Call& call) { return call["x"].rows() > 0; },
                 .spec =
                     [](const Call& call) {
                       return spec(call,
                                   {{"want_dx", wants_dx(call)},
                                    {"want_dgate", wants_dgate(call)},
                                    {"want_dweight", wants_dweight(call)}},
                                   holds_backward(call));
                     },
                 .candidates =
                     [](const Call& call) {
                       return partial_candidates(call, group_size(call),
                                                 holds_backward(call) ? 5 : 0);
                     },
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(partials_of(call), knobs); },
                 .arguments = {"dy",
                               "x",
                               "gate",
                               "weight",
                               "rstd",
                               "dx",
                               "dgate",
                               "partials",
                               {"rows", group_rows},
                               {"partial_rows", partials_of},
                               {"dy_stride", "dy.stride"},
                               {"x_stride", "x.stride"},
                               {"gate_stride", "gate.stride"},
                               "offset"}},
                column_sum({{"partials", "dweight", weight_dtype_of_x}}, "x", wants_dweight,
                           [](const Call& call) { return partials_of(call) / groups(call); })},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      const int64_t group = example_group(e);
      return {{.input = "dy", .shape = {e["rows"], e["size"]}},
              {.input = "x", .shape = {e["rows"], e["size"]}},
              {.input = "gate", .shape = {e["rows"], e["size"]}},
              {.input = "weight", .shape = {e["size"]}},
              {.input = "rstd",
               .shape = {e["rows"], group > 0 ? e["groups"] : 1},
               .dtype = "arithmetic"},
              {.input = "eps", .value = 1e-6},
              {.input = "offset", .value = 0.0},
              {.input = "casting_mode", .value = 0},
              {.input = "activation", .value = 0},
              {.input = "gate_first", .value = 0},
              {.input = "group_size", .value = static_cast<double>(group)},
              {.input = "output_mask", .value = 7}};
    },
    .sizes = sizes,
}};

}  // namespace
}  // namespace liger
