#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

// What a gradient that the forward has already made is multiplied with.
void check_scale(const Call& call) {
  const int64_t factors = call["factor"].count();
  if (factors != 1 && factors != call["x"].rows() && factors != call["x"].count()) {
    call.refuse("factor", "has " + std::to_string(factors) + " elements",
                "1, the rows of 'x', " + std::to_string(call["x"].rows()) + ", or its elements, " +
                    std::to_string(call["x"].count()));
  }
  if (call["factor"].dtype != arithmetic(call["x"].dtype)) {
    call.refuse("factor", "has dtype " + std::string(name_of(call["factor"].dtype)),
                std::string(name_of(arithmetic(call["x"].dtype))));
  }
}

bool for_each_element(const Call& call) {
  const int64_t factors = call["factor"].count();
  return factors != 1 && factors != call["x"].rows();
}

// Most products in place are with 1, and then the number of blocks is all that costs: no more than
// keep the device busy with another factor.
int64_t turns_of_block(const Call& call, bool in_place) {
  if (!in_place || call.on_host()) return 1;
  const int64_t busy_rows = 128 * call.place().multiprocessors;
  return std::clamp<int64_t>(call["x"].rows() / busy_rows, 1, 16);
}

KernelOf scale_kernel(bool in_place) {
  return {
      .name = "Scale",
      .source = "loss/scale.h",
      .spec = [in_place](const Call& call) -> Spec {
        return {{"x", call["x"].dtype},
                {"each_row", call["factor"].count() != 1},
                {"each_element", for_each_element(call)},
                {"in_place", in_place},
                {"width", call["x"].last_size()},
                {"align_bytes", int64_t{call.align_bytes()}}};
      },
      .candidates = [](const Call& call) { return row_candidates(call, call["x"].last_size(), 0); },
      .blocks =
          [in_place](const Call& call, const Knobs& knobs) {
            const int64_t turns = turns_of_block(call, in_place);
            return (row_blocks(call["x"].rows(), knobs) + turns - 1) / turns;
          },
      .arguments = {"x",
                    "factor",
                    "multiplier",
                    {"y", in_place ? "x" : "y"},
                    {"rows", "x.rows"},
                    {"x_stride", "x.stride"},
                    {"y_stride",
                     [in_place](const Call& call) {
                       return in_place ? call["x"].row_stride() : call["x"].last_size();
                     }},
                    {"turns",
                     [in_place](const Call& call) { return turns_of_block(call, in_place); }}}};
}

std::vector<Sample> scale_example(const Extent& e) {
  return {{.input = "x", .shape = {e["rows"], e["size"]}},
          {.input = "factor", .shape = {}, .dtype = "arithmetic"}};
}

const Register scale{Op{
    .name = "scale",
    .doc = "y = x * factor * multiplier, one factor for all, for each row or for each element",
    .internal = true,
    .inputs = {rows("x"), dense("factor"), real("multiplier", "1.0")},
    .outputs = {{"y", [](const Call&) { return like("x"); },
                 [](const Call& call) { return call["x"].dtype; }}},
    .check = check_scale,
    .kernels = {scale_kernel(false)},
    .example = scale_example,
}};

const Register scale_in_place{Op{
    .name = "scale_",
    .doc = "x *= factor * multiplier; a product of 1 costs nothing",
    .internal = true,
    .inputs = {written(rows("x")), dense("factor"), real("multiplier", "1.0")},
    .check = check_scale,
    .kernels = {scale_kernel(true)},
    .example = scale_example,
}};

}  // namespace
}  // namespace liger
