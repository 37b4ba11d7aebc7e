#include "composites/linear_loss/preference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

namespace liger::torch_bindings {
namespace {

using at::Tensor;

// [parts, units], or undefined where there is no reference.
Tensor reference_of(const CompositeCall& in, const LogProbCall& call, bool average,
                    const Tensor& lengths) {
  const Units& units = call.units;
  if (in.find("ref_input") == nullptr) return {};
  if (in.has("ref_log_probs")) return in.tensor("ref_log_probs").view({units.parts, units.count});
  if (!in.has("ref_input")) return {};
  const LinearLayer layer{by_rows(in.tensor("ref_input")).contiguous(),
                          in.tensor("ref_weight").contiguous(), in.tensor("ref_bias")};
  const Tensor sums = numbers_of(in, layer, call.ids, false)
                          .log_prob.view({units.parts, units.count, units.tokens})
                          .sum(2);
  return average ? sums / lengths : sums;
}

class Pairs final : public LogProbLoss {
 public:
  Pairs(const CompositeCall& in, const LogProbCall& call, Sequences::Averages averages,
        const PairFormula& formula)
      : sequences_(in, call, averages),
        formula_(formula),
        beta_(in["beta"].toDouble()),
        nll_(in["compute_nll_loss"].toBool()),
        alpha_(in["alpha"].toDouble()),
        pairs_(static_cast<double>(call.units.count)),
        unit_(unit_of_mean(call.layer)) {
    const auto numbers = sequences_.sums().options();
    loss_ = at::empty({call.units.count}, numbers);
    if (call.second_ids.defined()) nll_sums_ = at::empty({call.units.count}, numbers);
    chosen_tokens_ = (nll_sums_.defined() ? call.second_ids.ne(in["ignore_index"].toInt()).sum()
                                          : sequences_.tokens()[0].sum())
                         .clamp_min(1)
                         .to(numbers.dtype().toScalarType());
  }

  TokenNumbers step(int64_t first, const TokenNumbers& tokens) override {
    const Tensor ratios = sequences_.take(first, tokens.log_prob);
    const PairLoss pair = formula_(ratios[0], ratios[1]);
    loss_.narrow(0, first, pair.loss.size(0)).copy_(pair.loss);
    const Tensor slopes = at::stack({pair.chosen, pair.rejected}) * (unit_ / pairs_);
    Tensor of_tokens = sequences_.by_tokens(first, slopes);
    Tensor of_second;
    if (tokens.second.defined()) {
      nll_sums_.narrow(0, first, pair.loss.size(0)).copy_(tokens.second[0].sum(1));
      of_second = (chosen_tokens_.reciprocal() * (-alpha_ * unit_)).expand_as(tokens.second);
    } else if (nll_) {
      of_tokens[0].sub_(chosen_tokens_.reciprocal(), alpha_ * unit_);
    }
    return {of_tokens.expand_as(tokens.log_prob), {}, of_second};
  }

  const Sequences& sequences() const { return sequences_; }
  // When all pairs were there.
  Tensors loss_and_metrics(const LinearLayer& layer) const {
    const Tensor log_probs = sequences_.log_probs(), rewards = sequences_.log_ratios() * beta_;
    const Tensor means = mean_logits(layer, 2, layer.input.size(0) / 2);
    const Tensor likelihood = nll_sums_.defined() ? nll_sums_ : sequences_.sums()[0];
    const Tensor nll = nll_ ? -likelihood.sum() / chosen_tokens_ : loss_.new_zeros({});
    const Tensor mean = loss_.sum() / pairs_;
    return {nll_ ? mean + nll * alpha_ : mean,
            log_probs[0].clone(),
            log_probs[1].clone(),
            means[0].clone(),
            means[1].clone(),
            nll,
            rewards[0].clone(),
            rewards[1].clone()};
  }

 private:
  Sequences sequences_;
  const PairFormula& formula_;
  const double beta_;
  const bool nll_;
  const double alpha_, pairs_, unit_;
  Tensor chosen_tokens_, loss_;
  Tensor nll_sums_;  // of the second ids of chosen tokens; undefined: they have one id
};

// What the chosen tokens are to predict where the negative log-likelihood is of others than `ids`.
Tensor nll_ids_of(const CompositeCall& in) {
  if (!in.has("nll_ids") || !in["compute_nll_loss"].toBool()) return {};
  const Tensor chosen = in.tensor("nll_ids").chunk(2)[0];
  return at::cat({chosen, at::full_like(chosen, in["ignore_index"].toInt())}).view(-1);
}

}  // namespace

Sequences::Sequences(const CompositeCall& in, const LogProbCall& call, Averages averages)
    : averages_(averages) {
  const Units& units = call.units;
  const auto exact = exact_options(call.layer.input.options());
  tokens_ = call.ids.view({units.parts, units.count, units.tokens})
                .ne(in["ignore_index"].toInt())
                .sum(2)
                .to(exact.dtype().toScalarType());
  lengths_ = tokens_.clamp_min(1);
  sums_ = at::zeros({units.parts, units.count}, exact);
  reference_ = reference_of(in, call, averaged(), lengths_);
}

Tensor Sequences::take(int64_t first, const Tensor& token_log_probs) {
  const int64_t count = token_log_probs.size(1);
  const auto part = [&](const Tensor& whole) { return whole.narrow(1, first, count); };
  part(sums_).copy_(token_log_probs.sum(2));
  Tensor ratios = averaged() ? part(sums_) / part(lengths_) : part(sums_);
  if (reference_.defined()) ratios = ratios - part(reference_);
  return averages_ == Averages::log_ratios ? ratios / part(lengths_) : ratios;
}

Tensor Sequences::by_tokens(int64_t first, const Tensor& slopes) const {
  const Tensor lengths = lengths_.narrow(1, first, slopes.size(1));
  return (averages_ == Averages::none ? slopes : slopes / lengths).unsqueeze(2);
}

Tensor Sequences::log_probs() const { return averaged() ? sums_ / lengths_ : sums_; }
Tensor Sequences::log_ratios() const {
  return reference_.defined() ? log_probs() - reference_ : log_probs();
}

LogProbCall sequences_of(const CompositeCall& in, int64_t parts) {
  const Tensor input = in.tensor("input");
  return {.layer = layer_of(in),
          .ids = in.tensor("ids").contiguous().view(-1),
          .units = {.parts = parts, .count = input.size(0) / parts, .tokens = input.size(1)},
          .wanted = wanted_of(in, "with_gradient")};
}

Tensor mean_logits(const LinearLayer& layer, int64_t groups, int64_t tokens) {
  const auto wide = exact_options(layer.input.options()).dtype().toScalarType();
  const Tensor states =
      at::mean(layer.input.view({groups, tokens, layer.input.size(1)}), 1, false, wide);
  const Tensor mean = at::mv(states, at::mean(layer.weight, 0, false, wide));
  return layer.bias.defined() ? mean + at::mean(layer.bias, 0, false, wide) : mean;
}

PairLoss of_difference(const Tensor& loss, const Tensor& slope) { return {loss, slope, -slope}; }

PairLoss logistic(double beta, double margin, double smoothing, const Tensor& chosen,
                  const Tensor& rejected) {
  const Tensor d = (chosen - rejected) * beta - margin;
  const Tensor loss = at::log_sigmoid(d) * -(1 - smoothing) - at::log_sigmoid(-d) * smoothing;
  return of_difference(loss,
                       (at::sigmoid(d) * smoothing - at::sigmoid(-d) * (1 - smoothing)) * beta);
}

Tensors loss_of_pairs(const CompositeCall& in, Sequences::Averages averages,
                      const PairFormula& formula, const PairMetrics& own) {
  LogProbCall call = sequences_of(in, 2);
  call.second_ids = nll_ids_of(in);
  Pairs loss(in, call, averages, formula);
  const LayerGradients gradients = run(in, call, loss);
  Tensors outputs = loss.loss_and_metrics(call.layer);
  if (own) {
    const Tensor ratios = loss.sequences().log_ratios();
    for (Tensor& metric : own(ratios[0], ratios[1])) outputs.push_back(std::move(metric));
  }
  append_gradients(outputs, gradients, in.tensor("input"));
  return outputs;
}

}  // namespace liger::torch_bindings
