// Cross entropy of rows of logits whose classes are spread over ranks, each with as many, in order.
//   loss = (1 - a) (lse - z[y]) + a / K sum_c (lse - z[c])
// over all K classes, or in the sum those of this rank; a = e, or e K / (K - 1) where the label's
// own class has no share of e. What a rank knows of its part of a row goes to all ranks, once; of
// these numbers each makes the loss, and in the backward the gradient of its own logits.
#pragma once
#include "device/fault.h"
#include "device/loss_gradient.h"
#include "device/reread_row.h"

namespace liger {

// Of the part of a row that one rank has.
template <class A>
struct PartOfRow {
  A max;        // -inf where all is
  A sum;        // of exp(z - max); a maximum of -inf counts as 0 here and below
  A score;      // of the label, if it is of this part
  A distances;  // sum of z - max
};

// Of a whole row.
template <class A>
struct WholeRow {
  A max;
  A sum;
};

struct VocabParallelStatisticsSpec {
  Dtype logits;
  int classes;  // of this rank
  int align_bytes;
  bool smoothing;
  bool held;    // a row is read once
  int threads;  // tuned
  int rows;     // tuned
  int cluster;  // tuned: blocks of a row
  int kept;     // tuned: packs that a thread of a held row has in registers
};

template <VocabParallelStatisticsSpec S>
struct VocabParallelStatistics {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  using Row = RereadRow<S, S.classes, T>;

  const T* logits;
  const long long* target;
  PartOfRow<A>* statistics;
  long long rows;
  long long logits_stride;
  long long first_class;
  long long ignore_index;

  LIGER_DEVICE void operator()(long long block) const {
    each_reread_row_once<S>(block, rows, [&](long long row, int share) { one_row(row, share); });
  }

 private:
  // An ignored row is not read, so it may hold anything.
  LIGER_DEVICE void one_row(long long row_index, int share) const {
    const T* const x = logits + row_index * logits_stride;
    Row row(x, share);
    const long long label = target[row_index];
    if (label == ignore_index) {
      if (row.leads()) statistics[row_index] = {};
      return;
    }
    const long long own = label - first_class;
    row.read();
    const MaxAndSum<A> known = max_and_sum_of(row);
    A distances = 0;
    if constexpr (S.smoothing) {
      const A max = finite(known.max);
      distances = row.sum(
          true, [max](int column, const Pack<A>& z) { return present(column, z + (-max)); });
    }
    if (!row.leads()) return;
    const A score = own >= 0 && own < S.classes ? widen(x[own]) : A(0);
    statistics[row_index] = {known.max, known.sum, score, distances};
  }

  // Zeros where there is no class.
  static LIGER_DEVICE Pack<A> present(int column, Pack<A> values) {
    if (column < 0 || column > S.classes - pack_size) {
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        if (column + i < 0 || column + i >= S.classes) values.v[i] = A(0);
      }
    }
    return values;
  }

  static LIGER_DEVICE MaxAndSum<A> max_and_sum_of(const Row& row) {
    constexpr bool in_one_reading = !S.held && !exact && !on_host;
    if constexpr (in_one_reading) {
      return row.template combined<MaxAndSum<A>>(
          [](int, const Pack<A>& z) { return max_and_sum<exact>(z); }, MergeMaxAndSum<exact>{},
          MaxAndSum<A>{});
    } else {
      const A max = row.largest();
      const A reference = finite(max);
      return {max, row.sum(false, [reference](int, const Pack<A>& z) {
                return map([reference](A one) { return probability<exact>(one - reference); }, z);
              })};
    }
  }
};

template <VocabParallelStatisticsSpec S>
constexpr int cluster_of<VocabParallelStatistics<S>> = S.cluster;
template <VocabParallelStatisticsSpec S>
constexpr int resident_of<VocabParallelStatistics<S>> = S.kept > 0 ? 768 / S.threads : 1;

// a of the formula above.
LIGER_DEVICE double share_of_smoothing(double label_smoothing, bool without_label,
                                       long long classes) {
  if (!without_label) return label_smoothing;
  return label_smoothing * static_cast<double>(classes) / static_cast<double>(classes - 1);
}

struct VocabParallelLossSpec {
  Dtype arithmetic;
  bool smoothing;
  bool without_label;
  bool own_classes;  // the smoothing's sum is that of this rank
  int threads;
  int rows;
};

// The loss of each row, from what all ranks know of their parts.
template <VocabParallelLossSpec S>
struct VocabParallelLoss {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Type<S.arithmetic>;

  const PartOfRow<A>* statistics;  // [ranks, rows]
  const long long* target;
  A* loss;
  WholeRow<A>* whole;
  InputFault fault;
  long long rows;
  long long rank;
  long long ranks;
  long long classes;  // of a rank
  long long ignore_index;
  double label_smoothing;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int, bool active) {
      if (active) one_row(row);
    });
  }

 private:
  LIGER_DEVICE const PartOfRow<A>& part(long long of_rank, long long row) const {
    return statistics[of_rank * rows + row];
  }

  LIGER_DEVICE void one_row(long long row) const {
    const long long label = target[row];
    if (label == ignore_index || label < 0 || label >= classes * ranks) {
      const bool ignored = label == ignore_index;
      loss[row] = ignored ? A(0) : A(bits_as<float>(0x7fc00000u));
      whole[row] = {A(0), A(1)};
      if (!ignored) record_fault(fault, row, label, classes * ranks);
      return;
    }
    MaxAndSum<A> all;
    for (long long each = 0; each < ranks; ++each) {
      const auto& one = part(each, row);
      all = MergeMaxAndSum<true>{}(all, MaxAndSum<A>{one.max, one.sum});
    }
    const A max = finite(all.max);
    const A log_sum = logarithm(all.sum);
    const A score = part(label / classes, row).score;
    A result = (max - score) + log_sum;
    if constexpr (S.smoothing) {
      const long long averaged = S.own_classes ? classes : classes * ranks;
      const A a = A(share_of_smoothing(label_smoothing, S.without_label, averaged));
      A distances = 0;
      for (long long each = S.own_classes ? rank : 0; each < (S.own_classes ? rank + 1 : ranks);
           ++each) {
        const auto& one = part(each, row);
        distances += one.distances + A(classes) * (finite(one.max) - max);
      }
      result = (A(1) - a) * result + a * (log_sum - distances / A(averaged));
    }
    loss[row] = result;
    whole[row] = {max, all.sum};
  }
};

struct VocabParallelGradientSpec {
  Dtype logits;
  int classes;
  int align_bytes;
  bool smoothing;
  bool without_label;
  int threads;  // tuned
  int rows;     // tuned
};

// dz[c] = dloss (exp(z[c] - max) / sum - a / K - (c == y ? 1 - a : 0)), of this rank's classes.
template <VocabParallelGradientSpec S>
struct VocabParallelGradient {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  using Wide = Arithmetic<exact ? Dtype::f64 : Dtype::f32>;
  using Row = StreamedRow<S.classes, S.threads, S.align_bytes, true, T>;

  const A* dloss;
  const T* logits;
  const long long* target;
  const WholeRow<A>* whole;
  T* dlogits;
  long long rows;
  long long logits_stride;
  long long first_class;
  long long all_classes;
  long long averaged_classes;
  long long ignore_index;
  double label_smoothing;

  LIGER_DEVICE void operator()(long long block) const {
    each_row_from_the_end<S.threads, S.rows>(block, rows,
                                             [&](long long row, int thread, bool active) {
                                               if (active) one_row(row, thread);
                                             });
  }

 private:
  LIGER_DEVICE void one_row(long long row_index, int thread) const {
    const T* const x = logits + row_index * logits_stride;
    T* const dx = dlogits + row_index * S.classes;
    const Row row(x, thread);
    const long long label = target[row_index];
    if (label == ignore_index || label < 0 || label >= all_classes) {
      row.fill(dx, A(0));
      return;
    }
    const Wide g = dloss[row_index];
    const Wide a =
        S.smoothing ? Wide(share_of_smoothing(label_smoothing, S.without_label, averaged_classes))
                    : Wide(0);
    const RowGradient<A> c = {whole[row_index].max,
                              A(quotient<true>(g, Wide(whole[row_index].sum))),
                              A(g * a / Wide(averaged_classes)), A(g * (Wide(1) - a))};
    row.store(dx, [&](int, const Pack<A>& z) {
      return map([&](A one) { return gradient_at(one, A(0), c); }, z);
    });
    // Stored twice, by one thread: cheaper than a look for the label in every pack.
    const long long own = label - first_class;
    if (own >= 0 && own < S.classes && row.owns(static_cast<int>(own)))
      dx[own] = narrow<T>(gradient_at(widen(x[own]), -c.at_label, c));
  }

  static LIGER_DEVICE A gradient_at(A z, A at_label, const RowGradient<A>& c) {
    return gradient_of_logit<exact, false, S.smoothing>(z, A(1), at_label, c, 0.0);
  }
};

}  // namespace liger
