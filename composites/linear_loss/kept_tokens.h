// The tokens of a batch that a loss looks at: those whose id is not ignored, so that products are
// made of no others.
#pragma once

#include "composites/linear_loss/linear_loss.h"

namespace liger::torch_bindings {

// All tokens, or the kept ones, where it is known without waiting for a device how many these are:
// ids on the CPU, or the composite's `counted_tokens`. Their number is rounded up, to a few sizes
// that plans are made for; what is added is padding, whose id is ignored.
class KeptTokens {
 public:
  static KeptTokens all(int64_t tokens) { return KeptTokens(tokens); }
  // All where a copy of the others would not pay, and while kernels are only prepared. `second`: as
  // of Labels; a token of which one id is not ignored is kept.
  static KeptTokens of(const CompositeCall& in, const at::Tensor& ids,
                       const at::Tensor& second = {});
  // The same of a loss whose labels are optional: all where there are none.
  static KeptTokens of_optional(const CompositeCall& in, const at::Tensor& ids, int64_t tokens) {
    return ids.defined() ? of(in, ids) : all(tokens);
  }

  bool skips() const { return places_.defined(); }
  int64_t total() const { return total_; }
  int64_t count() const { return skips() ? places_.size(0) : total_; }

  // Of a tensor [tokens, ...] the rows of kept tokens. Padding has a kept token's: an ignored one
  // may hold anything, a NaN too.
  at::Tensor rows(const at::Tensor& whole) const;
  // The same with `padding` there.
  at::Tensor numbers(const at::Tensor& whole, const at::Scalar& padding) const;

  LinearLayer layer(const LinearLayer& whole) const;
  Labels labels(const CompositeCall& in, const at::Tensor& ids,
                const at::Tensor& second = {}) const;

  // The reverse: a tensor [tokens, ...] with the kept tokens' rows in their places, `missing`
  // elsewhere.
  at::Tensor spread(const at::Tensor& of_kept, double missing) const;

  // NaN where the caller's count was too small, which would leave ids out without a word.
  at::Tensor checked(const at::Tensor& numbers) const;

 private:
  explicit KeptTokens(int64_t total) : total_(total) {}

  int64_t total_;
  at::Tensor places_;  // [count], the total for padding; undefined: all are kept
  at::Tensor padding_, from_, count_is_right_;
};

}  // namespace liger::torch_bindings
