#include "composites/linear_loss/log_prob_loss.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include "composites/linear_loss/log_prob_product.h"
#include "composites/linear_loss/scaled_exp.h"
#include "engine/registry.h"
#include "ops/loss/cross_entropy.h"
#include "ops/loss/log_probs.h"

namespace liger::torch_bindings {
namespace {

// Of classes that are spread over ranks, where the composite's are.
int64_t rank_option(const CompositeCall& in, std::string_view name, int64_t otherwise) {
  const c10::IValue* const own = in.find(name);
  return own ? own->toInt() : otherwise;
}
int64_t rank_of(const CompositeCall& in) { return rank_option(in, "rank", 0); }
int64_t ranks_of(const CompositeCall& in) { return rank_option(in, "ranks", 1); }

void numbers_of_logits(const CompositeCall& in, const at::Tensor& logits, const Labels& labels,
                       const TokenNumbers& numbers, const at::Tensor& statistics,
                       int64_t first_token, bool spare) {
  static const Op& numbers_op = op_named("log_probs_chunk_");
  in.run(numbers_op,
         {{"logits", logits},
          {"ids", labels.ids},
          {"log_probs", numbers.log_prob},
          {"entropy", numbers.entropy},
          {"statistics", statistics},
          {"nll_ids", labels.second},
          {"nll_log_probs", numbers.second},
          {"places", labels.places},
          {"first_row", first_token},
          {"rank", rank_of(in)},
          {"ranks", ranks_of(in)}},
         spare);
}

// Overwrites the logits, or where they are `kept` writes there from those.
void gradient_of_logits(const CompositeCall& in, const at::Tensor& logits, const at::Tensor& kept,
                        const Labels& labels, const at::Tensor& statistics,
                        const TokenNumbers& derivatives, bool spare) {
  static const Op& in_place = op_named("log_probs_chunk_gradient_");
  static const Op& of_kept = op_named("log_probs_kept_gradient_");
  if (kept.defined()) {
    in.run(of_kept, {{"logits", kept},
                     {"ids", labels.ids},
                     {"statistics", statistics},
                     {"dlog_probs", derivatives.log_prob},
                     {"dentropy", derivatives.entropy},
                     {"dlogits", logits},
                     {"rank", rank_of(in)},
                     {"ranks", ranks_of(in)}});
    return;
  }
  in.run(in_place,
         {{"logits", logits},
          {"ids", labels.ids},
          {"statistics", statistics},
          {"dlog_probs", derivatives.log_prob},
          {"dentropy", derivatives.entropy},
          {"nll_ids", labels.second},
          {"dnll_log_probs", derivatives.second},
          {"rank", rank_of(in)},
          {"ranks", ranks_of(in)}},
         spare);
}

TokenNumbers room_for(int64_t tokens, bool entropy, bool second, const at::TensorOptions& exact) {
  const auto numbers = [&](bool wanted) {
    return wanted ? at::empty({tokens}, exact) : at::Tensor();
  };
  return {numbers(true), numbers(entropy), numbers(second)};
}

// The same of all numbers.
template <class Change>
TokenNumbers changed(const TokenNumbers& numbers, Change change) {
  return {change(numbers.log_prob), change(numbers.entropy), change(numbers.second)};
}

at::Tensor of_units(const at::Tensor& numbers, const Units& batch, int64_t count) {
  return numbers.defined() ? numbers.view({batch.parts, count, batch.tokens}) : numbers;
}
at::Tensor of_tokens(const at::Tensor& numbers) {
  return numbers.defined() ? numbers.reshape(-1).contiguous() : numbers;
}

TokenNumbers step_of(LogProbLoss& loss, const KeptTokens& kept, const Units& batch, int64_t first,
                     int64_t count, const TokenNumbers& numbers) {
  const TokenNumbers derivatives =
      loss.step(first, changed(numbers, [&](const at::Tensor& of_tokens) {
                  return of_units(kept.checked(of_tokens), batch, count);
                }));
  return changed(derivatives, of_tokens);
}

// Exponentials know nothing of an entropy, nor of a second id.
LossDivision division_of(const CompositeCall& in, const LinearLayer& layer, const Units& units,
                         bool needs_logits, bool whole_units, const WantedGradients& wanted,
                         std::optional<int64_t> kept = {}) {
  const bool plain = !needs_logits && !in["exact"].toBool() && ScaledExp::takes(layer) &&
                     in["temperature"].toDouble() == 1.0 && in["softcap"].toDouble() == 0.0;
  return divide(in.place(), layer.sizes(), units,
                {.plain = plain,
                 .whole_units = whole_units,
                 .gradient = wanted.any(),
                 .input_gradient = wanted.input,
                 .weight_gradient = wanted.weight,
                 .kept = kept},
                in["chunk_tokens"].toInt(), static_cast<Accumulate>(in["accumulate"].toInt()));
}

bool needs_logits(const LogProbCall& call) { return call.entropy || call.second_ids.defined(); }

// The loss and its gradient, chunk by chunk of whole units.
class InOneGo final : public ChunkLoss {
 public:
  InOneGo(const CompositeCall& in, const LogProbCall& call, const Labels& labels,
          const KeptTokens& kept, LogProbLoss& loss)
      : in_(in),
        call_(call),
        labels_(labels),
        kept_(kept),
        loss_(loss),
        exact_(exact_options(call.layer.input.options())) {}

  void take_logits(const Chunk& chunk, const at::Tensor& logits, bool spare) override {
    const TokenNumbers numbers =
        room_for(chunk.tokens(), call_.entropy, labels_.second.defined(), exact_);
    const at::Tensor statistics = at::empty({chunk.tokens(), log_prob_statistics}, exact_);
    each_part(chunk, [&](int64_t part) {
      numbers_of_logits(in_, chunk.of_chunk(logits, part), labels_.of(chunk, part),
                        of_part(chunk, numbers, part), chunk.of_chunk(statistics, part),
                        chunk.first_token(part), spare);
    });
    const TokenNumbers derivatives = step(chunk, numbers);
    each_part(chunk, [&](int64_t part) {
      gradient_of_logits(in_, chunk.of_chunk(logits, part), {}, labels_.of(chunk, part),
                         chunk.of_chunk(statistics, part), of_part(chunk, derivatives, part),
                         spare);
    });
  }

  ExponentialLosses losses_of(const Chunk& chunk) override {
    return {at::empty({chunk.tokens()}, exact_), at::empty({chunk.tokens()}, exact_)};
  }
  at::Tensor weights_of(const Chunk& chunk, const at::Tensor& losses) override {
    const TokenNumbers numbers{losses.neg(), {}};
    return step(chunk, numbers).log_prob.neg();
  }

 private:
  TokenNumbers step(const Chunk& chunk, const TokenNumbers& numbers) {
    return step_of(loss_, kept_, chunk.batch, chunk.first, chunk.count, numbers);
  }

  template <class Use>
  static void each_part(const Chunk& chunk, Use use) {
    for (int64_t part = 0; part < chunk.batch.parts; ++part) use(part);
  }
  static TokenNumbers of_part(const Chunk& chunk, const TokenNumbers& numbers, int64_t part) {
    return changed(numbers, [&](const at::Tensor& all) { return chunk.of_chunk(all, part); });
  }

  const CompositeCall& in_;
  const LogProbCall& call_;
  const Labels& labels_;
  const KeptTokens& kept_;  // of which the call is
  LogProbLoss& loss_;
  const at::TensorOptions exact_;
};

// Logits of a chunk of which only its kernels are prepared: another batch may have too few tokens
// for the product that writes none.
at::Tensor spare_logits(const LinearLayer& layer, const Chunk& chunk) {
  return at::empty({chunk.tokens(), layer.weight.size(0)}, layer.input.options());
}

class NumbersAlone final : public ChunkLoss {
 public:
  NumbersAlone(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
               const TokenNumbers& numbers, const at::Tensor& statistics,
               const std::optional<LogProbProduct>& product)
      : in_(in),
        layer_(layer),
        labels_(labels),
        numbers_(numbers),
        statistics_(statistics),
        product_(product) {}

  bool wants_logits() const override { return !product_; }
  bool holds_logits() const override { return !product_; }

  void take_logits(const Chunk& chunk, const at::Tensor& logits, bool spare) override {
    if (!product_) return read(chunk, logits, spare);
    product_->numbers(chunk, part_of(chunk), chunk.of_batch(statistics_, 0));
    if (in_.records() && chunk.first == 0) read(chunk, spare_logits(layer_, chunk), true);
  }

  // Their signs are turned when all are there.
  ExponentialLosses losses_of(const Chunk& chunk) override {
    return {chunk.of_batch(numbers_.log_prob, 0),
            at::empty({chunk.tokens()}, numbers_.log_prob.options())};
  }

 private:
  void read(const Chunk& chunk, const at::Tensor& logits, bool spare) const {
    numbers_of_logits(in_, logits, labels_.of(chunk, 0), part_of(chunk),
                      chunk.of_batch(statistics_, 0), chunk.first, spare);
  }
  TokenNumbers part_of(const Chunk& chunk) const {
    return changed(numbers_, [&](const at::Tensor& whole) { return chunk.of_batch(whole, 0); });
  }

  const CompositeCall& in_;
  const LinearLayer& layer_;
  const Labels& labels_;
  const TokenNumbers& numbers_;
  const at::Tensor& statistics_;
  const std::optional<LogProbProduct>& product_;
};

class GradientAlone final : public ChunkLoss {
 public:
  GradientAlone(const CompositeCall& in, const LinearLayer& layer, const Labels& labels,
                const at::Tensor& statistics, const TokenNumbers& derivatives,
                const at::Tensor& logits, bool by_product)
      : in_(in),
        layer_(layer),
        labels_(labels),
        statistics_(statistics),
        derivatives_(derivatives),
        logits_(logits),
        by_product_(by_product) {}

  bool wants_logits() const override { return !logits_.defined() && !by_product_; }

  void take_logits(const Chunk& chunk, const at::Tensor& logits, bool spare) override {
    if (!by_product_) return from_logits(chunk, logits, spare);
    log_prob_gradient_by_product(in_, layer_, labels_, chunk, statistics_, derivatives_, logits);
    if (in_.records() && chunk.first == 0) from_logits(chunk, spare_logits(layer_, chunk), true);
  }

 private:
  void from_logits(const Chunk& chunk, const at::Tensor& logits, bool spare) const {
    const auto part = [&](const at::Tensor& whole) { return chunk.of_batch(whole, 0); };
    gradient_of_logits(in_, logits, part(logits_), labels_.of(chunk, 0), part(statistics_),
                       changed(derivatives_, part), spare);
  }

  const CompositeCall& in_;
  const LinearLayer& layer_;
  const Labels& labels_;
  const at::Tensor& statistics_;
  const TokenNumbers& derivatives_;
  const at::Tensor& logits_;
  const bool by_product_;
};

// Of the tokens that are kept.
TokenNumbers numbers_of_kept(const CompositeCall& in, const LinearLayer& layer,
                             const Labels& labels, bool entropy, const at::Tensor& statistics,
                             at::Tensor logits) {
  const int64_t tokens = labels.ids.size(0);
  const bool second = labels.second.defined();
  const TokenNumbers numbers =
      room_for(tokens, entropy, second, exact_options(layer.input.options()));
  const LossDivision division = division_of(in, layer, {.count = tokens},
                                            entropy || second || statistics.defined(), false, {});
  std::optional<LogProbProduct> product;
  if (division.way == Way::logits && LogProbProduct::takes(in, layer, labels, division.chunk)) {
    product.emplace(in, layer, labels, division.chunk, entropy, logits);
  } else if (logits.defined()) {
    logits_into(logits, layer, layer.input);
    numbers_of_logits(in, logits, labels, numbers, statistics, 0, false);
    return numbers;
  }
  NumbersAlone loss(in, layer, labels, numbers, statistics, product);
  run_by_chunks(in, layer, labels, division, {}, loss);
  if (division.way == Way::exponentials) numbers.log_prob.neg_();
  return numbers;
}

LayerGradients gradients_of_kept(const CompositeCall& in, const LinearLayer& layer,
                                 const Labels& labels, const at::Tensor& statistics,
                                 const TokenNumbers& derivatives, const WantedGradients& wanted,
                                 const at::Tensor& logits) {
  const LossDivision division =
      division_of(in, layer, {.count = labels.ids.size(0)}, true, false, wanted);
  const bool by_product =
      !logits.defined() && LogProbProduct::takes(in, layer, labels, division.chunk_tokens());
  GradientAlone loss(in, layer, labels, statistics, derivatives, logits, by_product);
  return run_by_chunks(in, layer, labels, division, wanted, loss);
}

at::Tensor room_for_statistics(const LinearLayer& layer) {
  return at::empty({layer.input.size(0), log_prob_statistics},
                   exact_options(layer.input.options()));
}

TokenNumbers spread(const KeptTokens& kept, const TokenNumbers& numbers) {
  return changed(numbers, [&](const at::Tensor& of_kept) { return kept.spread(of_kept, 0); });
}
TokenNumbers checked(const KeptTokens& kept, const TokenNumbers& numbers) {
  return changed(numbers, [&](const at::Tensor& each) { return kept.checked(each); });
}
TokenNumbers rows(const KeptTokens& kept, const TokenNumbers& numbers) {
  return changed(numbers, [&](const at::Tensor& all) { return kept.rows(all); });
}
LayerGradients spread(const KeptTokens& kept, LayerGradients made) {
  made.input = kept.spread(made.input, 0);
  return made;
}

LayerGradients run_in_one_go(const CompositeCall& in, const LogProbCall& call, Labels labels,
                             const KeptTokens& kept, const LossDivision& division,
                             LogProbLoss& loss) {
  const auto exact = exact_options(call.layer.input.options());
  // A loss of one token each, to be multiplied with what the step says.
  if (division.way == Way::exponentials) labels.totals = at::ones({3}, exact);
  InOneGo in_one_go(in, call, labels, kept, loss);
  return run_by_chunks(in, call.layer, labels, division, call.wanted, in_one_go);
}

LayerGradients run_statistics_first(const CompositeCall& in, const LogProbCall& call,
                                    const KeptTokens& kept, LogProbLoss& loss) {
  const LinearLayer layer = kept.layer(call.layer);
  const Labels labels = kept.labels(in, call.ids, call.second_ids);
  const at::Tensor statistics = call.wanted.any() ? room_for_statistics(layer) : at::Tensor();
  const TokenNumbers numbers = numbers_of_kept(in, layer, labels, call.entropy, statistics, {});
  const TokenNumbers derivatives =
      step_of(loss, kept, call.units, 0, call.units.count, spread(kept, numbers));
  if (!call.wanted.any()) return {};
  return spread(kept, gradients_of_kept(in, layer, labels, statistics, rows(kept, derivatives),
                                        call.wanted, {}));
}

// Of a loss that has taken the kept tokens for its units.
LayerGradients run_of_kept(const CompositeCall& in, const LogProbCall& call, const KeptTokens& kept,
                           LogProbLoss& loss) {
  const Labels labels = kept.labels(in, call.ids, call.second_ids);
  LogProbCall of_kept = call;
  of_kept.layer = kept.layer(call.layer);
  of_kept.ids = labels.ids;
  of_kept.second_ids = labels.second;
  of_kept.units = {.count = kept.count()};
  if (!call.wanted.any()) {
    step_of(loss, kept, of_kept.units, 0, kept.count(),
            numbers_of_kept(in, of_kept.layer, labels, call.entropy, {}, {}));
    return {};
  }
  const LossDivision division =
      division_of(in, of_kept.layer, of_kept.units, needs_logits(call), true, call.wanted);
  return spread(kept, run_in_one_go(in, of_kept, labels, kept, division, loss));
}

}  // namespace

LayerGradients run(const CompositeCall& in, const LogProbCall& call, LogProbLoss& loss) {
  const KeptTokens kept = KeptTokens::of(in, call.ids, call.second_ids);
  if (kept.skips() && loss.keep(kept)) return run_of_kept(in, call, kept, loss);
  const LossDivision division =
      division_of(in, call.layer, call.units, needs_logits(call), true, call.wanted, kept.count());
  if (!call.wanted.any() || division.way == Way::statistics_first)
    return run_statistics_first(in, call, kept, loss);
  const KeptTokens all = KeptTokens::all(kept.total());
  return run_in_one_go(in, call, all.labels(in, call.ids, call.second_ids), all, division, loss);
}

double unit_of_mean(const LinearLayer& layer) {
  return layer.input.scalar_type() == at::kHalf ? gradient_unit(Dtype::f16, Reduction::mean) : 1.0;
}

TokenNumbers numbers_of(const CompositeCall& in, const LinearLayer& layer, const at::Tensor& ids,
                        bool entropy) {
  const KeptTokens kept = KeptTokens::of(in, ids);
  return checked(kept, spread(kept, numbers_of_kept(in, kept.layer(layer), kept.labels(in, ids),
                                                    entropy, {}, {})));
}

KnownTokens known_tokens(const CompositeCall& in, const LinearLayer& layer, const at::Tensor& ids,
                         bool entropy, const at::Tensor& logits) {
  const KeptTokens kept = KeptTokens::of(in, ids);
  const LinearLayer of_kept = kept.layer(layer);
  const at::Tensor statistics = room_for_statistics(of_kept);
  const TokenNumbers numbers = numbers_of_kept(in, of_kept, kept.labels(in, ids), entropy,
                                               statistics, rows_of(logits, 0, kept.count()));
  return {checked(kept, spread(kept, numbers)), kept.spread(statistics, 0)};
}

LayerGradients gradients_of(const CompositeCall& in, const LinearLayer& layer,
                            const at::Tensor& ids, const at::Tensor& statistics,
                            const TokenNumbers& derivatives, const WantedGradients& wanted,
                            const at::Tensor& logits) {
  const KeptTokens kept = KeptTokens::of(in, ids);
  return spread(
      kept, gradients_of_kept(in, kept.layer(layer), kept.labels(in, ids), kept.rows(statistics),
                              rows(kept, derivatives), wanted, logits));
}

Tensors gradients_of_numbers(const CompositeCall& in, at::Tensor logits) {
  const LinearLayer layer = layer_of(in);
  const auto options = layer.input.options();
  const LayerGradients made =
      gradients_of(in, layer, in.tensor("ids").contiguous(), in.tensor("statistics").contiguous(),
                   {in.tensor("dlog_probs").contiguous(), in.tensor("dentropy").contiguous()},
                   wanted_of(in, "output_mask"), std::move(logits));
  return {or_empty(made.input, options), or_empty(made.weight, options),
          or_empty(made.bias, options)};
}

}  // namespace liger::torch_bindings
