// Losses of the log-probabilities of chosen ids, which is what preference optimisation and
// reinforcement learning are made of. The engine makes log-probabilities and entropies of a chunk's
// tokens; the loss makes of them what it is, and the derivative with respect to each; the engine
// makes the gradients of that. docs/adding_a_loss.md shows one.
#pragma once

#include "composites/linear_loss/kept_tokens.h"
#include "composites/linear_loss/linear_loss.h"

namespace liger::torch_bindings {

// Numbers of the tokens of some units, each [parts, units, tokens of a unit], in float32 (float64
// for float64) on the device of the input. All are 0 where the id is ignore_index.
struct TokenNumbers {
  at::Tensor log_prob;
  at::Tensor entropy;      // undefined where the loss has none
  at::Tensor second = {};  // the log-probability of the second id; undefined where there is none
};

class LogProbLoss {
 public:
  virtual ~LogProbLoss() = default;

  // Of the units from `first` on the derivative of the loss with respect to each number; one of an
  // ignored token is not read. Called for all units, a few at a time and in order; what the loss
  // and its metrics are is the loss's to keep. Small tensors, on the device: nobody waits for them.
  // What is a sum over all units has to be known before.
  virtual TokenNumbers step(int64_t first, const TokenNumbers& tokens) = 0;

  // Of a loss whose units are single tokens: from now on they are these alone, and padding counts
  // nothing. False: it has to see all units.
  virtual bool keep(const KeptTokens&) { return false; }
};

// What a loss is of.
struct LogProbCall {
  LinearLayer layer;
  at::Tensor ids;              // [tokens], of the units part after part
  at::Tensor second_ids = {};  // the same, where tokens have two; the composite's `nll_ids`
  Units units;
  bool entropy = false;
  WantedGradients wanted;
};

// Runs the loss in three products, or in four where a unit is too large for a chunk or four of the
// tokens that are not ignored cost less. The options of a layer's scores and of its division are
// the composite's.
LayerGradients run(const CompositeCall& in, const LogProbCall& call, LogProbLoss& loss);

// What the derivatives of a mean are multiplied with, so that a small type holds the gradient: the
// unit of the declaration.
double unit_of_mean(const LinearLayer& layer);

// The numbers of all tokens, [tokens], without a gradient: one product.
TokenNumbers numbers_of(const CompositeCall& in, const LinearLayer& layer, const at::Tensor& ids,
                        bool entropy);

// The same, and what gradients_of() wants.
struct KnownTokens {
  TokenNumbers numbers;
  at::Tensor statistics;  // [tokens, log_prob_statistics]
};
// `logits`: undefined, or room for those of all tokens, of which kept ones' come first.
KnownTokens known_tokens(const CompositeCall& in, const LinearLayer& layer, const at::Tensor& ids,
                         bool entropy, const at::Tensor& logits = {});

// Gradients for the derivatives of some loss with respect to the numbers. The logits are made again
// or, where they are given, as known_tokens() left them, read.
LayerGradients gradients_of(const CompositeCall& in, const LinearLayer& layer,
                            const at::Tensor& ids, const at::Tensor& statistics,
                            const TokenNumbers& derivatives, const WantedGradients& wanted,
                            const at::Tensor& logits = {});

// The outputs of an operator that has `dlog_probs` and `dentropy`, of tokens with these
// `statistics`: gradients of input, weight and bias, of which `output_mask` asks.
Tensors gradients_of_numbers(const CompositeCall& in, at::Tensor logits = {});

}  // namespace liger::torch_bindings
