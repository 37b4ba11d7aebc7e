#include <algorithm>

#include "base/parts.h"
#include "base/text.h"
#include "engine/registry.h"
#include "ops/norm/norm.h"

namespace liger {
namespace {

Dtype x_dtype(const Call& call) { return call["x"].dtype; }
Dtype scale_dtype(const Call& call) { return call["scale"].dtype; }
Dtype weight_dtype_of_x(const Call& call) { return weight_dtype(call, "x"); }
Dtype statistics_dtype(const Call& call) { return arithmetic(x_dtype(call)); }
int64_t size_of_row(const Call& call) { return call["x"].last_size(); }

bool per_row(const Call& call) { return call["scale"].rows() == call["x"].rows(); }

// Rows of x that have one row of scale. While a kernel is measured there may be fewer rows than
// modulations.
int64_t modulation_rows(const Call& call) {
  return std::max<int64_t>(1, call["x"].rows() / std::max<int64_t>(1, call["scale"].rows()));
}

// A walk is what a partial has its rows of: one modulation, or all rows where each has its own.
int64_t walks(const Call& call) {
  return per_row(call) ? 1 : std::min(call["scale"].rows(), call["x"].rows());
}
int64_t walk_rows(const Call& call) {
  return per_row(call) ? call["x"].rows() : modulation_rows(call);
}

// Partials of a walk: as many as take the least time, by the bytes that the slowest place for a
// partial moves; a place is what `partial_rows` counts.
int64_t partials_of_walk(const Call& call) {
  const int64_t places = partial_rows(call, call["x"].rows(), size_of_row(call));
  if (places == 0 || per_row(call)) return places;
  const int64_t rows = walk_rows(call);
  const int64_t most = std::min(rows, std::max<int64_t>(1, 4 * places / walks(call)));
  const auto bytes_of = [&](int64_t partials) {
    const int64_t each = parts(rows, partials) * 3 * size_bytes(x_dtype(call));
    const int64_t sums = 2 * 2 * size_bytes(statistics_dtype(call));  // two, written and read
    return parts(walks(call) * partials, places) * (each + sums);
  };
  int64_t best = 1;
  for (int64_t partials = 2; partials <= most; ++partials) {
    if (bytes_of(partials) < bytes_of(best)) best = partials;
  }
  return best;
}

bool holds_forward(const Call& call) { return holds(call, "x", 1); }
// Six rows may be on their way, in 16 KiB or less each.
bool holds_backward(const Call& call) {
  return holds(call, "x", 3) && size_of_row(call) * size_bytes(x_dtype(call)) <= 16384;
}

bool wants_dx(const Call& call) { return call.wants_grad(0); }
bool wants_dscale(const Call& call) { return call.wants_grad(1); }
bool wants_dshift(const Call& call) { return call.wants_grad(2); }
bool wants_dweight(const Call& call) { return call.wants_grad(3) && call.has("weight"); }

bool sums_products(const Call& call) {
  return wants_dweight(call) || (wants_dscale(call) && !per_row(call));
}
bool sums_incoming(const Call& call) { return wants_dshift(call) && !per_row(call); }

Temporary partials(std::string name, bool (*wanted)(const Call&)) {
  return {std::move(name), [wanted](const Call& call) -> int64_t {
            if (!wanted(call)) return 0;
            const int64_t of = per_row(call) ? 1 : call["scale"].rows();
            return of * partials_of_walk(call) * padded_columns(size_of_row(call)) *
                   size_bytes(statistics_dtype(call));
          }};
}

// scale has the sizes of x, but for the last of the leading ones, which may be 1.
void require_modulation(const Call& call) {
  const Tensor& x = call["x"];
  const Tensor& scale = call["scale"];
  bool fits = scale.dims == x.dims && scale.last_size() == x.last_size();
  bool whole = true;  // so far
  for (int dim = 0; fits && dim + 1 < x.dims; ++dim) {
    whole = whole && scale.sizes[dim] == x.sizes[dim];
    fits = whole || scale.sizes[dim] == 1;
  }
  if (fits) return;
  call.refuse("scale", "has shape " + shape_text(scale),
              "the sizes of 'x', " + shape_text(x) +
                  ", or 1 in place of all, or of the last, of those before " +
                  std::to_string(x.last_size()));
}

void check(const Call& call) {
  check_norm(call);
  require_modulation(call);
}

int64_t column_blocks(const Call& call) { return parts(size_of_row(call), 32); }
int64_t sums_wanted(const Call& call) {
  const int64_t of_each = int64_t{wants_dscale(call)} + int64_t{wants_dshift(call)};
  return int64_t{wants_dweight(call)} + of_each * call["scale"].rows();
}

const Register modulated_rms_norm{Op{
    .name = "modulated_rms_norm",
    .doc = "y = rms_norm(x) * (1 + scale) + shift, scale and shift per row, per sequence or whole",
    .inputs = {rows("x"), rows("scale"), optional(rows("shift")), optional(dense("weight")),
               real("eps", "1e-06"), real("offset", "0.0"), casting_mode(), keeps_statistics()},
    .outputs = {{"y", [](const Call&) { return like("x"); }, x_dtype},
                {"rstd", statistics_shape, statistics_dtype, false}},
    .check =
        [](const Call& call) {
          check(call);
          require_same_shape(call, "scale", "shift");
          require_same_dtype(call, "scale", "shift");
        },
    .kernels = {{.name = "ModulatedRmsNormForward",
                 .source = "norm/modulated_rms_norm.h",
                 .spec = [](const Call& call) -> Spec {
                   return {{"x", x_dtype(call)},
                           {"weight", weight_dtype_of_x(call)},
                           {"scale", scale_dtype(call)},
                           {"has_weight", call.has("weight")},
                           {"has_shift", call.has("shift")},
                           {"round_early", round_early(call)},
                           {"per_row", per_row(call)},
                           {"hidden", size_of_row(call)},
                           {"align_bytes", int64_t{call.align_bytes()}},
                           {"hold", holds_forward(call)}};
                 },
                 .candidates =
                     [](const Call& call) {
                       const int copies = per_row(call) ? 3 : 1;
                       return row_candidates(call, size_of_row(call),
                                             holds_forward(call) ? copies : 0);
                     },
                 .blocks = [](const Call& call,
                              const Knobs& knobs) { return row_blocks(call["x"].rows(), knobs); },
                 .arguments = {"x",
                               "scale",
                               "shift",
                               "weight",
                               "y",
                               "rstd",
                               {"rows", "x.rows"},
                               {"modulation_rows", modulation_rows},
                               {"x_stride", "x.stride"},
                               {"scale_stride", "scale.stride"},
                               {"shift_stride", "shift.stride"},
                               "eps",
                               "offset"}}},
    .gradient = {.backward = "modulated_rms_norm_backward",
                 .saved = {"x", "scale", "weight", "rstd"},
                 .of = {{"x", "dx"},
                        {"scale", "dscale"},
                        {.input = "shift", .gradient = "dshift", .added_to = "y"},
                        {"weight", "dweight"}},
                 .needs_grad_flag = keeps_statistics().name},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "x", .shape = {e["sequences"], e["rows"], e["size"]}},
              {.input = "scale", .shape = {e["sequences"], 1, e["size"]}},
              {.input = "shift", .shape = {e["sequences"], 1, e["size"]}},
              {.input = "weight", .shape = {e["size"]}}};
    },
    .sizes = example_sizes({{"sequences", 2, "sequences of so many rows, each modulated alike"}}),
    .bench = {{"hidden-4096", {{"rows", 2048}, {"size", 4096}, {"sequences", 8}}},
              {"hidden-4096 whole", {{"rows", 16384}, {"size", 4096}, {"sequences", 1}}},
              {"hidden-4096 each row", {{"rows", 1}, {"size", 4096}, {"sequences", 16384}}},
              {"hidden-3072", {{"rows", 4096}, {"size", 3072}, {"sequences", 4}}}},
}};

const Register modulated_rms_norm_backward{Op{
    .name = "modulated_rms_norm_backward",
    .doc = "gradients: dx is that of rms_norm for dy * (1 + scale); sums for scale, shift, weight",
    .internal = true,
    .inputs = {rows("dy"), rows("x"), rows("scale"), optional(dense("weight")), dense("rstd"),
               real("eps", "1e-06"), real("offset", "0.0"), casting_mode(), mask("output_mask", 4)},
    .outputs =
        {{"dx", [](const Call& call) { return wants_dx(call) ? like("x") : empty(); }, x_dtype},
         {"dscale", [](const Call& call) { return wants_dscale(call) ? like("scale") : empty(); },
          scale_dtype},
         {"dshift", [](const Call& call) { return wants_dshift(call) ? like("scale") : empty(); },
          scale_dtype},
         {"dweight",
          [](const Call& call) { return wants_dweight(call) ? like("weight") : empty(); },
          weight_dtype_of_x}},
    .temporaries = {partials("products", sums_products), partials("incoming", sums_incoming)},
    .check =
        [](const Call& call) {
          check(call);
          require_statistics(call, "rstd");
          require_same_shape(call, "x", "dy");
          require_same_dtype(call, "x", "dy");
        },
    .kernels = {{.name = "ModulatedRmsNormBackward",
                 .source = "norm/modulated_rms_norm.h",
                 .when = [](const Call& call) { return call["x"].rows() > 0; },
                 .spec = [](const Call& call) -> Spec {
                   return {{"x", x_dtype(call)},
                           {"weight", weight_dtype_of_x(call)},
                           {"scale", scale_dtype(call)},
                           {"has_weight", call.has("weight")},
                           {"round_early", round_early(call)},
                           {"per_row", per_row(call)},
                           {"want_dx", wants_dx(call)},
                           {"want_dscale", wants_dscale(call)},
                           {"want_dshift", wants_dshift(call)},
                           {"want_dweight", wants_dweight(call)},
                           {"hidden", size_of_row(call)},
                           {"align_bytes", int64_t{call.align_bytes()}},
                           {"hold", holds_backward(call)}};
                 },
                 .candidates =
                     [](const Call& call) {
                       return partial_candidates(call, size_of_row(call),
                                                 holds_backward(call) ? 5 : 0);
                     },
                 .blocks =
                     [](const Call& call, const Knobs& knobs) {
                       return walks(call) * row_blocks(partials_of_walk(call), knobs);
                     },
                 .arguments = {"dy",
                               "x",
                               "scale",
                               "weight",
                               "rstd",
                               "dx",
                               "dscale",
                               "dshift",
                               "products",
                               "incoming",
                               {"walks", walks},
                               {"rows", walk_rows},
                               {"partial_rows", partials_of_walk},
                               {"dy_stride", "dy.stride"},
                               {"x_stride", "x.stride"},
                               {"scale_stride", "scale.stride"},
                               "offset"}},
                {.name = "ModulationSum",
                 .source = "norm/modulated_rms_norm.h",
                 .when = [](const Call& call) { return !per_row(call) && sums_wanted(call) > 0; },
                 .spec = [](const Call& call) -> Spec {
                   return {{"partial", statistics_dtype(call)},
                           {"weight", weight_dtype_of_x(call)},
                           {"scale", scale_dtype(call)},
                           {"has_weight", call.has("weight")},
                           {"want_dscale", wants_dscale(call)},
                           {"want_dshift", wants_dshift(call)},
                           {"want_dweight", wants_dweight(call)},
                           {"columns", size_of_row(call)},
                           {"align_bytes", int64_t{call.align_bytes()}}};
                 },
                 // As of ColumnSum: a short row has many partials and few columns.
                 .candidates = [](const Call& call) -> std::vector<Knobs> {
                   return {{{"groups", size_of_row(call) < 4096 ? 128 : 32}}};
                 },
                 .blocks = [](const Call& call,
                              const Knobs&) { return column_blocks(call) * sums_wanted(call); },
                 .threads = [](const Knobs& knobs) { return 4 * value_of(knobs, "groups", 1); },
                 .arguments = {"products",
                               "incoming",
                               "scale",
                               "weight",
                               "dscale",
                               "dshift",
                               "dweight",
                               {"modulations", "scale.rows"},
                               {"partial_rows", partials_of_walk},
                               {"scale_stride", "scale.stride"},
                               "offset"}},
                column_sum({{"products", "dweight", weight_dtype_of_x}}, "x",
                           [](const Call& call) { return per_row(call) && wants_dweight(call); })},
    .sharding = Sharding::rows,
    .example = [](const Extent& e) -> std::vector<Sample> {
      return {{.input = "dy", .shape = {e["sequences"], e["rows"], e["size"]}},
              {.input = "x", .shape = {e["sequences"], e["rows"], e["size"]}},
              {.input = "scale", .shape = {e["sequences"], 1, e["size"]}},
              {.input = "weight", .shape = {e["size"]}},
              {.input = "rstd", .shape = {e["sequences"], e["rows"]}, .dtype = "arithmetic"},
              {.input = "eps", .value = 1e-6},
              {.input = "offset", .value = 0.0},
              {.input = "casting_mode", .value = 0},
              // A shift for each row has the gradient that arrives.
              {.input = "output_mask", .value = e["rows"] == 1 ? 11.0 : 15.0}};
    },
    .sizes = example_sizes({{"sequences", 2, "sequences of so many rows, each modulated alike"}}),
}};

}  // namespace
}  // namespace liger
