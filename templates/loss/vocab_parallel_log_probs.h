// Log-probabilities and entropies of rows whose classes are spread over ranks, from what each rank
// knows of its part: selective_log_softmax.h says what that is, and makes the gradient of it.
#pragma once
#include "device/logit_distance.h"
#include "device/streamed_row.h"
#include "loss/selective_log_softmax.h"

namespace liger {

template <class A>
struct LogProbPart {
  LogProbStatistics<A> statistics;
  A of_id;  // the distance of the id from the part's largest, on the rank that has its class
};

struct MergedLogProbsSpec {
  Dtype arithmetic;
  int threads;
  int rows;
};

template <MergedLogProbsSpec S>
struct MergedLogProbs {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Type<S.arithmetic>;

  const LogProbPart<A>* parts;  // [ranks, rows]
  const long long* ids;
  A* log_probs;
  A* entropy;
  LogProbStatistics<A>* whole;
  long long rows;
  long long ranks;
  long long classes;  // of a rank
  long long ignore_index;
  double temperature;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int, bool active) {
      if (active) one_row(row);
    });
  }

 private:
  LIGER_DEVICE const LogProbPart<A>& part(long long rank, long long row) const {
    return parts[rank * rows + row];
  }

  // Of a part whose logits are all -inf nothing is known and nothing counts.
  static LIGER_DEVICE bool counts(const LogProbPart<A>& one) { return one.statistics.sum != A(0); }

  LIGER_DEVICE A shift(const LogProbPart<A>& one, A max) const {
    return quotient<true>(one.statistics.max - max, A(temperature));
  }

  LIGER_DEVICE void one_row(long long row) const {
    const long long id = ids[row];
    if (id == ignore_index || id < 0 || id >= classes * ranks) {
      const A value = id == ignore_index ? A(0) : A(bits_as<float>(0x7fc00000u));
      log_probs[row] = entropy[row] = value;
      whole[row] = {A(0), A(1), A(0)};
      return;
    }
    A largest = minus_infinity<A>();
    for (long long rank = 0; rank < ranks; ++rank) {
      const auto& one = part(rank, row);
      if (counts(one)) largest = Larger{}(largest, one.statistics.max);
    }
    const A max = finite(largest);
    A sum = 0, weighted = 0;
    for (long long rank = 0; rank < ranks; ++rank) {
      const auto& one = part(rank, row);
      if (!counts(one)) continue;
      const A behind = shift(one, max);
      const A e = one.statistics.sum * probability<true>(behind);
      sum += e;
      if (e != A(0)) weighted = fused(e, one.statistics.mean + behind, weighted);
    }
    const A log_sum = logarithm(sum), mean = quotient<true>(weighted, sum);
    const auto& own = part(id / classes, row);
    log_probs[row] = (own.of_id + shift(own, max)) - log_sum;
    entropy[row] = log_sum - mean;
    whole[row] = {max, sum, mean};
  }
};

}  // namespace liger
