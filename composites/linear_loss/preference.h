// Losses of preferences: of log-probabilities of whole sequences, over those of a reference model
// where there is one. A loss of pairs is a formula of two numbers a pair; averages, the reference,
// the negative log-likelihood and the metrics are the same for all and stand here.
#pragma once

#include <functional>

#include "composites/linear_loss/log_prob_loss.h"
#include "torch_bindings/execute.h"

namespace liger::torch_bindings {

// What is known of the sequences of a batch, and what a loss keeps of them: `parts` of units, as
// the engine hands them out. A sequence whose ids are all ignored has a log-probability of 0.
class Sequences {
 public:
  enum class Averages { none, log_ratios, log_probs };  // over a sequence's tokens

  // Of a call whose units are sequences. The reference is the composite's `ref_log_probs`, or of
  // its `ref_input`, `ref_weight` and `ref_bias`; without one log-ratios are log-probabilities.
  Sequences(const CompositeCall& in, const LogProbCall& call, Averages averages);

  // The log-ratios of the units from `first` on, [parts, units], of their tokens'
  // log-probabilities.
  at::Tensor take(int64_t first, const at::Tensor& token_log_probs);
  // Derivatives by those log-ratios as derivatives by each token's log-probability, [.., units, 1].
  at::Tensor by_tokens(int64_t first, const at::Tensor& slopes) const;

  // When all were there, [parts, units].
  at::Tensor log_probs() const;
  at::Tensor log_ratios() const;  // averaged where log-probabilities are
  const at::Tensor& sums() const { return sums_; }
  const at::Tensor& tokens() const { return tokens_; }  // how many count, as a number

 private:
  bool averaged() const { return averages_ == Averages::log_probs; }

  const Averages averages_;
  at::Tensor tokens_, lengths_, reference_, sums_;
};

// The composite's input, of sequences, as units of `parts` sequences.
LogProbCall sequences_of(const CompositeCall& in, int64_t parts);

// Of all logits of each group of so many tokens, [groups]. The layer is linear, so it is that of
// the mean state and the mean row of the weight, and no logit is read for it.
at::Tensor mean_logits(const LinearLayer& layer, int64_t groups, int64_t tokens);

// Of each pair the loss, and its derivatives by the two numbers it is of.
struct PairLoss {
  at::Tensor loss, chosen, rejected;
};
using PairFormula = std::function<PairLoss(const at::Tensor& chosen, const at::Tensor& rejected)>;

// Of the difference d of both numbers alone: the loss and its derivative by d.
PairLoss of_difference(const at::Tensor& loss, const at::Tensor& slope);

// -(1 - e) log s(d) - e log s(-d), d = beta (chosen - rejected) - margin: labels are flipped with
// probability e.
PairLoss logistic(double beta, double margin, double smoothing, const at::Tensor& chosen,
                  const at::Tensor& rejected);

// Metrics of a loss's own, of the log-ratios of all pairs.
using PairMetrics = std::function<Tensors(const at::Tensor& chosen, const at::Tensor& rejected)>;

// The outputs of a loss of pairs: the mean of the formula over pairs, plus `alpha` times the
// negative log-likelihood of the chosen tokens, as `nll_ids` or else `ids`, where
// `compute_nll_loss` is set; the metrics that
// all have, of which rewards are `beta` times log-ratios, and its own; the gradients.
Tensors loss_of_pairs(const CompositeCall& in, Sequences::Averages averages,
                      const PairFormula& formula, const PairMetrics& own = {});

}  // namespace liger::torch_bindings
