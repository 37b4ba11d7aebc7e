// The tokens of a loss of a policy, and one step of that loss: ops/linear_loss/policy_loss.h has
// the formulas. Computed in float64: these are few numbers, of which some cancel.
#pragma once

#include <ATen/core/Tensor.h>

#include "torch_bindings/composite_call.h"

namespace liger::torch_bindings {

// Of sequences [B, T]. A token that neither mask nor weight counts may hold anything.
struct PolicyBatch {
  at::Tensor mask;        // what a token counts in means over its sequence
  at::Tensor weight;      // and in the loss, which is a sum
  at::Tensor advantages;  // [B]
  at::Tensor ref, old;    // log-probabilities, or undefined
  at::Tensor ratio;       // [B, T] or [B, 1], or undefined

  // Of a composite's inputs. The weights are those of the loss type or, of tokens that are not
  // added up, the mask.
  static PolicyBatch of(const CompositeCall& in, bool reduce);
  at::Tensor counted() const;         // bool: mask or weight is not zero
  at::Tensor tokens_counted() const;  // at least 1
  PolicyBatch sequences(int64_t first, int64_t count) const;
  // The same tokens as sequences of one.
  PolicyBatch tokens() const;
};

// Where a step writes: [B, T], zero where a token is not counted, or [B], the sums of sequences.
struct PolicyNumbers {
  at::Tensor loss;         // times the weight
  at::Tensor kl, clipped;  // times the mask

  static PolicyNumbers room_for(const at::Tensor& like);
  PolicyNumbers sequences(int64_t first, int64_t count) const;
};

// [B, T], of the loss: by a token's own log-probability, and by the mean log-ratio of its sequence,
// which is undefined where there is no such. Not wanted: undefined.
struct PolicySlopes {
  at::Tensor own, shared;
};

void policy_step(const CompositeCall& in, const PolicyBatch& batch, const at::Tensor& log_probs,
                 const PolicyNumbers& numbers, const PolicySlopes& slopes);

// The same, with the loss's derivative by the log-probabilities, in their dtype, times `unit`.
at::Tensor policy_derivative(const CompositeCall& in, const PolicyBatch& batch,
                             const at::Tensor& log_probs, const PolicyNumbers& numbers,
                             double unit);

// The gradient by log-probabilities of tokens' losses with these slopes.
at::Tensor policy_gradient(const PolicySlopes& slopes, const at::Tensor& mask);

}  // namespace liger::torch_bindings
