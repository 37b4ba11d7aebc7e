// Parts of composites over the square matrices of a causal attention.
#include "engine/registry.h"
#include "ops/attention/causal.h"
#include "ops/row_knobs.h"

namespace liger {
namespace {

const Register causal_softmax{Op{
    .name = "causal_softmax",
    .doc = "softmax of each row i of [..., N, N] over its columns up to i; 0 beyond",
    .internal = true,
    .inputs = {rows("x")},
    .outputs = {causal_output("y", "x")},
    .check = [](const Call& call) { require_square(call, "x"); },
    .kernels = {causal_kernel("CausalSoftmaxForward", {{"x", "x"}}, "y")},
    .example = [](const Extent& e) { return causal_samples(e, {"x"}); },
}};

const Register causal_softmax_backward{Op{
    .name = "causal_softmax_backward",
    .doc = "dx = y * (dy - sum(y * dy)) up to column i; 0 beyond",
    .internal = true,
    .inputs = {rows("dy"), rows("y")},
    .outputs = {causal_output("dx", "y")},
    .check =
        [](const Call& call) {
          require_square(call, "y");
          require_same_shape(call, "y", "dy");
          require_same_dtype(call, "y", "dy");
        },
    .kernels = {causal_kernel("CausalSoftmaxBackward", {{"dy", "dy"}, {"y", "y"}}, "dx")},
    .example =
        [](const Extent& e) {
          return causal_samples(e, {"dy", "y"});
        },
}};

const Register lower_triangle{Op{
    .name = "lower_triangle",
    .doc = "y = x in each row i of [..., N, N] up to column i; `fill` beyond, where x is not read",
    .internal = true,
    .inputs = {rows("x"), real("fill", "0.0")},
    .outputs = {causal_output("y", "x")},
    .check = [](const Call& call) { require_square(call, "x"); },
    .kernels = {causal_kernel("LowerTriangle", {{"x", "x"}}, "y", {"fill"})},
    .example = [](const Extent& e) { return causal_samples(e, {"x"}); },
}};

const Register clear_upper_triangle{Op{
    .name = "clear_upper_triangle_",
    .doc = "0 in each row i of [..., N, N] beyond column i",
    .internal = true,
    .inputs = {written(rows("x"))},
    .check = [](const Call& call) { require_square(call, "x"); },
    .kernels = {causal_kernel("ClearUpperTriangle", {{"x", "x"}}, "")},
    .example = [](const Extent& e) { return causal_samples(e, {"x"}); },
}};

}  // namespace
}  // namespace liger
