#include "composites/linear_loss/weight_sum.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "composites/products.h"
#include "engine/registry.h"

namespace liger::torch_bindings {

WeightSum::WeightSum(const CompositeCall& in, const at::Tensor& weight, SumOf sum)
    : in_(in), weight_(weight), of_(sum) {}

void WeightSum::add(const at::Tensor& dlogits, const at::Tensor& x, bool is_first, bool is_last) {
  const at::TensorOptions options = weight_.options();
  if (is_first)
    sum_ = at::empty(weight_.sizes(), of_ == SumOf::wide ? exact_options(options) : options);
  if (of_ == SumOf::split) {
    add_split(dlogits, x, is_first, is_last);
  } else {
    add_product(sum_, dlogits.t(), x, is_first);
  }
}

void WeightSum::add_split(const at::Tensor& dlogits, const at::Tensor& x, bool is_first,
                          bool is_last) {
  static const Op& add_to_split_sum = op_named("add_to_split_sum_");
  const int64_t classes = weight_.size(0);
  if (is_first) {
    low_ = at::empty(weight_.sizes(), weight_.options().dtype(at::kByte));
    product_ = at::empty({classes_of_split_tile(classes, weight_.size(1)), weight_.size(1)},
                         exact_options(weight_.options()));
  }
  for (int64_t first = 0; first < classes; first += product_.size(0)) {
    const int64_t count = std::min(product_.size(0), classes - first);
    at::Tensor product = rows_of(product_, 0, count);
    add_product(product, dlogits.narrow(1, first, count).t(), x, true);
    in_.run(add_to_split_sum, {{"x", product},
                               {"high", rows_of(sum_, first, count)},
                               {"low", rows_of(low_, first, count)},
                               {"first", is_first},
                               {"last", is_last}});
  }
}

at::Tensor WeightSum::result() {
  low_.reset();
  product_.reset();
  if (!sum_.defined()) return at::zeros(weight_.sizes(), weight_.options());
  return sum_.to(weight_.scalar_type());
}

}  // namespace liger::torch_bindings
