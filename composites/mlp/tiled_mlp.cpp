// A gated MLP by shards of its rows: only x and y are as long as the input. The backward makes each
// shard's gate and up anew, and adds what it gives to the weights' gradients.
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "base/parts.h"
#include "composites/mlp/mlp_gradients.h"
#include "composites/products.h"
#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

// Without a number each shard has at most as many rows as x has columns: then a shard's gate, up
// and product are of the size of the weights.
int64_t rows_of_shard(const CompositeCall& in, const at::Tensor& x) {
  const int64_t asked = in["shards"].toInt();
  const int64_t rows = asked == 0 ? x.size(1) : parts(x.size(0), asked);
  return std::max<int64_t>(rows, 1);
}

// f(first row, number of rows) for each shard; once where there are no rows, so that sums are made.
template <class F>
void each_shard(const at::Tensor& x, int64_t rows_each, F&& f) {
  const int64_t rows = x.size(0);
  for (int64_t first = 0; first == 0 || first < rows; first += rows_each)
    f(first, std::min(rows_each, rows - first));
}

Tensors forward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const at::Tensor x = by_rows(in.tensor("x"));
  const at::Tensor down_weight = in.tensor("down_weight");
  const at::Tensor y = at::empty({x.size(0), down_weight.size(0)}, x.options());
  each_shard(x, rows_of_shard(in, x), [&](int64_t first, int64_t rows) {
    const at::Tensor middle = gated(in, gate_and_up(in, x.narrow(0, first, rows)));
    at::Tensor of_shard = y.narrow(0, first, rows);
    at::mm_out(of_shard, middle, down_weight.t());
  });
  return {with_leading_dims_of(in.tensor("x"), y)};
}

Tensors backward(const Op& op, c10::ArrayRef<c10::IValue> values) {
  const CompositeCall in(op, values);
  const at::Tensor x = by_rows(in.tensor("x"));
  const at::Tensor dy = by_rows(in.tensor("dy"));
  const int64_t rows_each = rows_of_shard(in, x);
  // A sum of many shards in 16 bits would be rounded at each.
  const bool wide = x.size(0) > rows_each && x.element_size() < 4;
  MlpGradients gradients(in, wide ? at::kFloat : x.scalar_type());
  const at::Tensor dx = gradients.wants_dx() ? at::empty(x.sizes(), x.options()) : at::Tensor();
  each_shard(x, rows_each, [&](int64_t first, int64_t rows) {
    const at::Tensor of_shard = x.narrow(0, first, rows);
    at::Tensor dx_of_shard = dx.defined() ? dx.narrow(0, first, rows) : at::Tensor();
    gradients.add(dy.narrow(0, first, rows), of_shard, gate_and_up(in, of_shard), dx_of_shard,
                  true);
  });
  return gradients.results(dx);
}

const RegisterComposite forward_composite("tiled_mlp", forward);
const RegisterComposite backward_composite("tiled_mlp_backward", backward);

}  // namespace
}  // namespace liger::torch_bindings
