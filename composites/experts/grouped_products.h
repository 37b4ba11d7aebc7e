// Matrix products of rows that are grouped by expert: our own on GPUs, but for torch's where those
// have matrix units and ours have not; a loop over the experts on the CPU, where the host knows the
// groups.
#pragma once

#include "torch_bindings/composite_call.h"

namespace liger::torch_bindings {

// Rows for the places of the groups: one each, or those of tokens, which places have in common.
struct GroupedRows {
  at::Tensor rows;
  bool of_tokens = false;
};

class GroupedProducts {
 public:
  // `tokens`: that of each place; `ends`: of each expert's places; `transposed`: weights of experts
  // are [in, out], not [out, in].
  GroupedProducts(const CompositeCall& in, at::Tensor tokens, at::Tensor ends, bool transposed)
      : in_(in), tokens_(std::move(tokens)), ends_(std::move(ends)), transposed_(transposed) {}

  // Rows of tokens as products read them: gathered, unless they can gather them themselves.
  GroupedRows of_tokens(const at::Tensor& x) const;

  // x @ weight[e].T for the places of each expert e. What is at places of no expert is undefined.
  at::Tensor outputs(const GroupedRows& x, const at::Tensor& weight) const;
  // dy @ weight[e]
  at::Tensor inputs(const GroupedRows& dy, const at::Tensor& weight) const;
  // That of weight[e], where dy are gradients of `outputs` of x.
  at::Tensor weight_gradient(const GroupedRows& dy, const GroupedRows& x) const;

 private:
  enum class Way { by_torch, by_loop, by_template };
  Way way() const;
  at::Tensor product(const GroupedRows& x, const at::Tensor& weight, bool turned) const;

  const CompositeCall& in_;
  at::Tensor tokens_, ends_;
  bool transposed_;
};

}  // namespace liger::torch_bindings
