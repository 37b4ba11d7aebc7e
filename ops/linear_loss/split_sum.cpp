#include <algorithm>

#include "engine/registry.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

// Kernels read and write eight elements at once.
void check(const Call& call) {
  for (const char* const name : {"x", "high", "low"}) {
    require_same_shape(call, "x", name);
    const Tensor& tensor = call[name];
    const int64_t pack_bytes = 8 * size_bytes(tensor.dtype);
    if (tensor.row_align_bytes() < std::min<int64_t>(pack_bytes, 16))
      call.refuse(name, "has rows at other addresses than multiples of 8 elements",
                  "rows of a multiple of 8 elements");
  }
}

KernelOf kernel() {
  return {
      .name = "SplitSum",
      .source = "linear_loss/split_sum.h",
      .spec = [](const Call& call) -> Spec {
        return {{"width", call["x"].last_size()},
                {"first", call.flag("first")},
                {"last", call.flag("last")}};
      },
      .candidates = [](const Call& call) { return row_candidates(call, call["x"].last_size(), 0); },
      .blocks = [](const Call& call,
                   const Knobs& knobs) { return row_blocks(call["x"].rows(), knobs); },
      .arguments = {"x", "high", "low", {"rows", "x.rows"}}};
}

const Register split_sum{Op{
    .name = "add_to_split_sum_",
    .doc = "adds x to a sum of 24 bits, of which `high` holds the upper 16 and `low` the rest; the "
           "`first` time it begins with x, the `last` time it leaves the sum rounded in `high`",
    .internal = true,
    .inputs = {dense("x", {Dtype::f32}), written(dense("high", {Dtype::bf16})),
               written(dense("low", {Dtype::u8})), flag("first"), flag("last")},
    .check = check,
    .kernels = {kernel()},
    .example = [](const Extent& e) -> std::vector<Sample> {
      const std::vector<int64_t> shape = {e["rows"], padded_columns(e["size"])};
      return {{.input = "x", .shape = shape, .dtype = "f32"},
              {.input = "high", .shape = shape, .dtype = "bf16"},
              {.input = "low", .shape = shape, .dtype = "u8", .below = 256}};
    },
}};

}  // namespace
}  // namespace liger
