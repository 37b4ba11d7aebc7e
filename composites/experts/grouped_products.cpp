#include "composites/experts/grouped_products.h"

#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "engine/registry.h"

namespace liger::torch_bindings {
namespace {

bool is_of_16_bytes(int64_t bytes) { return bytes % 16 == 0; }

bool begins_at_16_bytes(const at::Tensor& tensor) {
  return is_of_16_bytes(reinterpret_cast<intptr_t>(tensor.const_data_ptr()));
}

// torch needs rows of whole 16 bytes, whichever way a matrix is turned, that begin at such places.
bool is_aligned(const at::Tensor& weight, bool has_memory) {
  const int64_t bytes = weight.element_size();
  return is_of_16_bytes(weight.size(1) * bytes) && is_of_16_bytes(weight.size(2) * bytes) &&
         (!has_memory || begins_at_16_bytes(weight));
}

// f(expert, first place, how many), for each expert.
template <class F>
void each_group(const at::Tensor& ends, F&& f) {
  const int* const end = ends.const_data_ptr<int>();
  int64_t first = 0;
  for (int64_t expert = 0; expert < ends.size(0); ++expert) {
    f(expert, first, end[expert] - first);
    first = end[expert];
  }
}

}  // namespace

// Our product has a body for the matrix units of compute capability 9.0 alone, and gathers rows as
// it reads them. From there on torch's product of bfloat16 takes groups that only the device knows;
// for all else it asks the device where they end, and waits.
GroupedProducts::Way GroupedProducts::way() const {
  if (in_.place().backend == Backend::cpu) return Way::by_loop;
  const bool torchs = in_.place().backend == Backend::cuda && in_.place().capability / 10 == 10 &&
                      in_.tensor("x").scalar_type() == at::kBFloat16 &&
                      is_aligned(in_.tensor("gate_up_weight"), !in_.records()) &&
                      is_aligned(in_.tensor("down_weight"), !in_.records());
  return torchs ? Way::by_torch : Way::by_template;
}

GroupedRows GroupedProducts::of_tokens(const at::Tensor& x) const {
  static const Op& gather = op_named("embedding");
  // Rows that begin elsewhere the matrix units cannot read; gathered, they begin where they should.
  const bool is_misplaced = !in_.records() && x.element_size() == 2 && !begins_at_16_bytes(x);
  if (way() == Way::by_template && !is_misplaced) return {x, true};
  return {in_.run(gather, {{"weight", x}, {"indices", tokens_}, {"padding_idx", -1}})[0], false};
}

at::Tensor GroupedProducts::outputs(const GroupedRows& x, const at::Tensor& weight) const {
  return product(x, weight, transposed_);
}

at::Tensor GroupedProducts::inputs(const GroupedRows& dy, const at::Tensor& weight) const {
  return product(dy, weight, !transposed_);
}

// `turned`: x @ weight[e], else x @ weight[e].T
at::Tensor GroupedProducts::product(const GroupedRows& x, const at::Tensor& weight,
                                    bool turned) const {
  static const Op& grouped_product = op_named("grouped_product");
  if (way() == Way::by_template) {
    return in_.run(grouped_product, {{"x", x.rows},
                                     {"weight", weight},
                                     {"tokens", tokens_},
                                     {"ends", ends_},
                                     {"gathers", x.of_tokens},
                                     {"turned", turned}})[0];
  }
  const at::Tensor right = turned ? weight : weight.transpose(1, 2);
  if (way() == Way::by_torch && !in_.records()) return at::_grouped_mm(x.rows, right, ends_);
  at::Tensor y = at::empty({x.rows.size(0), right.size(2)}, x.rows.options());
  if (in_.records()) return y;
  each_group(ends_, [&](int64_t expert, int64_t first, int64_t count) {
    if (count == 0) return;
    at::Tensor of_expert = y.narrow(0, first, count);
    at::mm_out(of_expert, x.rows.narrow(0, first, count), right[expert]);
  });
  return y;
}

at::Tensor GroupedProducts::weight_gradient(const GroupedRows& dy, const GroupedRows& x) const {
  static const Op& grouped_weight_gradient = op_named("grouped_weight_gradient");
  const GroupedRows &left = transposed_ ? x : dy, &right = transposed_ ? dy : x;
  if (way() == Way::by_template) {
    return in_.run(grouped_weight_gradient, {{"x", left.rows},
                                             {"right", right.rows},
                                             {"tokens", tokens_},
                                             {"ends", ends_},
                                             {"gathers", left.of_tokens},
                                             {"gathers_right", right.of_tokens}})[0];
  }
  if (way() == Way::by_torch && !in_.records())
    return at::_grouped_mm(left.rows.t(), right.rows, ends_);
  at::Tensor sum =
      at::empty({ends_.size(0), left.rows.size(1), right.rows.size(1)}, right.rows.options());
  if (in_.records()) return sum;
  each_group(ends_, [&](int64_t expert, int64_t first, int64_t count) {
    at::Tensor of_expert = sum[expert];
    at::mm_out(of_expert, left.rows.narrow(0, first, count).t(),
               right.rows.narrow(0, first, count));
  });
  return sum;
}

}  // namespace liger::torch_bindings
