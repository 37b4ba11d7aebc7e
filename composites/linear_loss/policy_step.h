// The losses of a policy by the log-probabilities of its tokens, with their derivatives.
//
// With l the log-probabilities, A the advantage of a sequence and r = exp(l - old), or exp of the
// mean of that over a sequence ("sequence"; old is l held constant where it is not given):
//   others: -min(min(r, delta) A, clamp(r, 1 - epsilon_low, 1 + epsilon_high) A)
//   cispo:  -min(r, epsilon_high) A l, the first factor held constant
//   sapo:   -4/t sigmoid(t (r - 1)) A, t by the sign of A
//   vespo:  -phi(w) A l, phi(w) = w^k exp(lambda (1 - w)), w the ratio of the whole sequence
// times importance_ratio (in vespo a factor of w), plus beta * KL, where
//   KL = exp(ref - l) - (ref - l) - 1, times r with bias_corrected_kl,
// and all of that times the token's weight.
//
// Computed in float64: these are few numbers, of which some cancel.
#pragma once

#include <ATen/core/Tensor.h>

#include "composites/linear_loss/kept_tokens.h"
#include "torch_bindings/composite_call.h"

namespace liger::torch_bindings {

// Of sequences [B, T]. A token that neither mask nor weight counts may hold anything.
struct PolicyBatch {
  at::Tensor mask;        // what a token counts in means over its sequence
  at::Tensor weight;      // and in the loss, which is a sum
  at::Tensor counted;     // where one of them is not zero
  at::Tensor advantages;  // [B, 1]
  at::Tensor ref, old;    // log-probabilities, or undefined
  at::Tensor ratio;       // [B, T] or [B, 1], or undefined

  // Of a composite's inputs. The weights are those of the loss type or, of tokens that are not
  // added up, the mask.
  static PolicyBatch of(const CompositeCall& in, bool reduce);
  at::Tensor tokens_counted() const;  // at least 1
  PolicyBatch sequences(int64_t first, int64_t count) const;
  // The same tokens as sequences of one, and of those the kept ones: padding counts nothing.
  PolicyBatch tokens() const;
  PolicyBatch of_kept(const KeptTokens& kept) const;
};

// Each [B, T], zero where a token is not counted.
struct PolicyStep {
  at::Tensor loss;          // times the weight, and so are the slopes
  at::Tensor kl, clipped;   // not weighted
  at::Tensor slope;         // of a token's loss by its own log-probability
  at::Tensor shared_slope;  // by the mean log-ratio of its sequence; undefined: there is no such
};
PolicyStep policy_step(const CompositeCall& in, const PolicyBatch& batch,
                       const at::Tensor& log_probs);

// The gradient by log-probabilities of tokens' losses with these slopes.
at::Tensor policy_gradient(const at::Tensor& slope, const at::Tensor& shared_slope,
                           const at::Tensor& mask);

}  // namespace liger::torch_bindings
