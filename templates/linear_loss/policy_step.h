// The loss of a policy by the log-probabilities l of a sequence's tokens, with its derivatives, as
// ops/linear_loss/policy_loss.h defines it. In float64: these are few numbers, of which some
// cancel.
#pragma once
#include "device/math.h"
#include "device/reduce.h"

namespace liger {

// As the choice `loss_type` counts them.
enum class PolicyLoss { grpo, bnpo, dr_grpo, dapo, cispo, sapo, luspo, vespo };

// Of a token, or of all of a sequence.
struct PolicyNumbers {
  double loss;
  double kl;
  double clipped;
  double slope;   // of the loss by the token's own l
  double shared;  // by the mean of the sequence's logarithms of ratios

  LIGER_DEVICE PolicyNumbers operator+(const PolicyNumbers& b) const {
    return {loss + b.loss, kl + b.kl, clipped + b.clipped, slope + b.slope, shared + b.shared};
  }
};
LIGER_DEVICE PolicyNumbers shuffle_xor(const PolicyNumbers& value, int mask) {
  return {shuffle_xor(value.loss, mask), shuffle_xor(value.kl, mask),
          shuffle_xor(value.clipped, mask), shuffle_xor(value.slope, mask),
          shuffle_xor(value.shared, mask)};
}

struct PolicyStepSpec {
  Dtype log_prob;
  int loss_type;
  bool single;  // sequences have one token
  bool shared;  // a sequence has one ratio
  bool has_ref;
  bool has_old;
  bool has_ratio;
  bool ratio_of_sequence;  // one for all tokens
  bool bounded;            // delta is given
  bool diverges;           // beta is not 0
  bool corrected;          // the divergence, by the ratio
  bool sums;               // of sequences are wanted, not the numbers of each token
  bool derivative;         // is wanted whole and in the type of l, not its parts
  int threads;
};

template <PolicyStepSpec S>
struct PolicyStep {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static constexpr PolicyLoss loss_type = static_cast<PolicyLoss>(S.loss_type);
  static constexpr bool vespo = loss_type == PolicyLoss::vespo;
  static constexpr bool cispo = loss_type == PolicyLoss::cispo;
  static constexpr bool sapo = loss_type == PolicyLoss::sapo;
  // A copy: to NVRTC 12.4 a member of a constant and an enumerator are of two types.
  using Slope = Type<S.derivative ? Dtype{S.log_prob} : Dtype::f64>;

  const Type<S.log_prob>* log_probs;
  const double* mask;    // what a token counts in means over its sequence
  const double* weight;  // and in the loss
  const double* advantages;
  const double* ref;
  const double* old;
  const double* importance;
  double* loss;
  double* kl;
  double* clipped;
  Slope* slope;
  double* shared_slope;
  long long rows;
  long long tokens;
  double unit;
  double beta;
  double epsilon_low;
  double epsilon_high;
  double delta;
  double sapo_temperature_pos;
  double sapo_temperature_neg;
  double vespo_k_pos;
  double vespo_lambda_pos;
  double vespo_k_neg;
  double vespo_lambda_neg;

  LIGER_DEVICE void operator()(long long block) const {
    if constexpr (S.single) {
      for (int i = thread_index(); i < S.threads; i += block_threads) {
        const long long row = block * S.threads + i;
        if (row < rows) one_sequence(row);
      }
    } else {
      one_sequence(block);
    }
  }

 private:
  static constexpr double least_log = -18.420680743952367;  // log(1e-8)
  static constexpr double most_log = 20;

  // What all tokens of a sequence have in common.
  struct Sequence {
    double advantage;
    double length = 1;
    double ratio = 1;
    double vespo_slope = 0;
  };
  using Numbers = PolicyNumbers;

  static LIGER_DEVICE double clamped(double x, double least, double most) {
    return x < least ? least : (x > most ? most : x);
  }
  static LIGER_DEVICE double exp_of(double x) { return exponential<true>(x); }
  static LIGER_DEVICE double gate(double x) { return sigmoid<true>(x); }

  LIGER_DEVICE bool counts(long long at) const { return mask[at] != 0 || weight[at] != 0; }
  LIGER_DEVICE double of_token(long long at) const {
    return static_cast<double>(widen(log_probs[at]));
  }
  // How far another is ahead of the policy; one that is not given is the policy itself.
  LIGER_DEVICE double ahead(const double* other, long long at) const {
    return counts(at) ? other[at] - of_token(at) : 0.0;
  }
  LIGER_DEVICE double log_ratio(long long at) const { return S.has_old ? -ahead(old, at) : 0.0; }

  // The sum of f(place) over the tokens of a sequence: every thread gets it.
  template <class V, class F>
  LIGER_DEVICE V over_tokens(long long row, F&& f) const {
    if constexpr (S.single) return f(row);
    V sum{};
    for (long long t = thread_index(); t < tokens; t += block_threads) {
      sum = sum + f(row * tokens + t);
    }
    return across_threads<block_threads, 1>(sum, Add{});
  }

  LIGER_DEVICE void one_sequence(long long row) const {
    const Sequence sequence = sequence_of(row);
    double of_shared = 0;
    if constexpr (S.derivative && S.shared) {
      of_shared = over_tokens<double>(row, [&](long long at) { return made(at, sequence).shared; });
    }
    const Numbers sums = over_tokens<Numbers>(row, [&](long long at) {
      const Numbers token = made(at, sequence);
      put_slopes(at, token, of_shared * (mask[at] / sequence.length));
      if constexpr (!S.sums) put(at, token);
      return token;
    });
    if (S.sums && (S.single || thread_index() == 0)) put(row, sums);
  }

  LIGER_DEVICE void put(long long at, const Numbers& numbers) const {
    loss[at] = numbers.loss;
    kl[at] = numbers.kl;
    clipped[at] = numbers.clipped;
  }
  LIGER_DEVICE void put_slopes(long long at, const Numbers& token, double of_shared) const {
    if constexpr (S.derivative) {
      slope[at] = narrow<Slope>(
          static_cast<typename ArithmeticOf<Slope>::Type>((token.slope + of_shared) * unit));
    } else if (slope) {
      slope[at] = token.slope;
      if constexpr (S.shared) shared_slope[at] = token.shared;
    }
  }

  LIGER_DEVICE Sequence sequence_of(long long row) const {
    Sequence sequence{advantages[row]};
    if constexpr (S.shared) {
      const double length = over_tokens<double>(row, [&](long long at) { return mask[at]; });
      sequence.length = length < 1 ? 1 : length;
      const double sum =
          over_tokens<double>(row, [&](long long at) { return log_ratio(at) * mask[at]; });
      sequence.ratio = exp_of(sum / sequence.length);
    }
    if constexpr (vespo) sequence.vespo_slope = vespo_slope(row, sequence.advantage);
    return sequence;
  }

  LIGER_DEVICE double vespo_slope(long long row, double a) const {
    double log_w = over_tokens<double>(
        row, [&](long long at) { return clamped(log_ratio(at), -most_log, most_log) * mask[at]; });
    const auto of_importance = [&](long long at) {
      return clamped(logarithm(importance[at]), least_log, most_log);
    };
    if constexpr (S.has_ratio && S.ratio_of_sequence) log_w += of_importance(row);
    if constexpr (S.has_ratio && !S.ratio_of_sequence)
      log_w += over_tokens<double>(
          row, [&](long long at) { return mask[at] != 0 ? of_importance(at) : 0.0; });
    if (log_w != log_w) return log_w;
    log_w = clamped(log_w, least_log, most_log);
    const double k = a >= 0 ? vespo_k_pos : vespo_k_neg;
    const double rate = a >= 0 ? vespo_lambda_pos : vespo_lambda_neg;
    const double phi = exp_of(k * log_w - (rate < 1e-4 ? 1e-4 : rate) * growth_of(log_w));
    return phi - phi == 0 ? phi * -a : 0.0 * -a;  // what is infinite is 0
  }

  LIGER_DEVICE Numbers made(long long at, const Sequence& sequence) const {
    if (!counts(at)) return {};
    const double ratio = S.shared ? sequence.ratio : exp_of(log_ratio(at));
    Numbers n = surrogate(ratio, at, sequence);
    if constexpr (S.has_ratio && !vespo) {
      const double factor = importance[S.ratio_of_sequence && !S.single ? at / tokens : at];
      n.loss *= factor;
      n.slope *= factor;
    }
    double own = 0;
    if constexpr (S.diverges) {
      const double difference = S.has_ref ? ahead(ref, at) : 0.0;
      const double growth = growth_of(difference);
      n.kl = growth - difference;
      own = growth * -beta;
      if constexpr (S.corrected) {
        n.kl *= ratio;
        own *= ratio;
        n.slope += beta * n.kl;
      }
      n.loss += beta * n.kl;
    }
    const double w = weight[at];
    return {n.loss * w, n.kl * mask[at], n.clipped * mask[at], (S.shared ? own : n.slope + own) * w,
            S.shared ? n.slope * w : 0.0};
  }

  // The loss of a token before weights and divergence; the slope by the logarithm of its ratio.
  LIGER_DEVICE Numbers surrogate(double ratio, long long at, const Sequence& sequence) const {
    const double a = sequence.advantage;
    if constexpr (vespo) {
      return {sequence.vespo_slope * of_token(at), 0, 0, sequence.vespo_slope, 0};
    } else if constexpr (cispo) {
      const double slope = (ratio > epsilon_high ? epsilon_high : ratio) * -a;
      return {slope * of_token(at), 0, ratio > epsilon_high && a > 0 ? 1.0 : 0.0, slope, 0};
    } else if constexpr (sapo) {
      const double t = a > 0 ? sapo_temperature_pos : sapo_temperature_neg;
      const double ahead = t * (ratio - 1);
      return {gate(ahead) * (a * -4 / t), 0, 0, gate(ahead) * gate(-ahead) * ratio * (a * -4), 0};
    } else {
      const double low = 1 - epsilon_low, high = 1 + epsilon_high;
      const bool below = ratio<low, above = ratio> high;
      const double free = (S.bounded && ratio > delta ? delta : ratio) * a;
      const double bounded = clamped(ratio, low, high) * a;
      // Where both are the same the ratio is the one of both.
      bool held = bounded < free && (below || above);
      if (S.bounded && ratio > delta && free <= bounded) held = true;
      const bool clips = (below && a < 0) || (above && a > 0);
      return {-(free < bounded ? free : bounded), 0, clips ? 1.0 : 0.0, held ? 0.0 : ratio * -a, 0};
    }
  }
};

}  // namespace liger
