// The log-probability of one chosen class of each row of logits, and the entropy of the row.
//   z = cap(x) / temperature;   p = softmax(z);   cap(x) = softcap * tanh(x / softcap), or x
//   log_prob = log p[y];   entropy = -sum p log p
//   dz[c] = dlog_prob ((c == y) - p[c]) - dentropy p[c] (log p[c] + entropy)
// A row may have a second class, whose log-probability is wanted too: a term more like the first.
// Or what is known of them of a part of the classes, where these are spread over ranks: the
// statistics are of the part, and of the id its distance from the part's largest.
#pragma once
#include "device/fault.h"
#include "device/logit_distance.h"
#include "device/reread_row.h"

namespace liger {

struct LogProbRowsSpec {
  Dtype logits;
  int classes;
  bool softcap;
  bool tempered;  // the temperature is not 1
  int align_bytes;
  bool entropy;
  bool keeps;   // statistics, for a gradient
  bool part;    // of the classes
  bool second;  // a row has a second id
  bool held;    // a row is read once
  int threads;  // tuned
  int rows;     // tuned
  int cluster;  // tuned: blocks of a row
  int kept;     // tuned: packs that a thread of a held row has in registers
};

template <LogProbRowsSpec S>
struct LogProbRows {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  using Row = RereadRow<S, S.classes, T>;

  const T* logits;
  const long long* ids;
  A* log_probs;
  A* entropy;
  LogProbStatistics<A>* statistics;
  InputFault fault;
  long long rows;
  long long logits_stride;
  long long first_row;  // of these, for the fault's message
  long long ignore_index;
  long long first_class;
  long long all_classes;
  double temperature;
  double softcap;
  const long long* second_ids;
  A* second_log_probs;
  InputFault second_fault;

  LIGER_DEVICE void operator()(long long block) const {
    each_reread_row_once<S>(block, rows, [&](long long row, int share) { one_row(row, share); });
  }

 private:
  LIGER_DEVICE void one_row(long long row_index, int share) const {
    const long long id = ids[row_index];
    const long long second = S.second ? second_ids[row_index] : ignore_index;
    const T* const x = logits + row_index * logits_stride;
    Row row(x, share);
    if (!is_class(id) && !(S.second && is_class(second))) {
      if (row.leads()) without_id(row_index, id, second);
      return;
    }
    const Chosen chosen = choose(x, id);
    const Chosen also = S.second ? choose(x, second) : Chosen{};
    row.read();
    const A max = finite(capped<exact, S.softcap>(row.largest(), softcap));
    const A divisor = divisor_of_distances<exact, A>(temperature);
    const auto distances = [&](int column, const Pack<A>& x) {
      const auto d = map([&](A one) { return distance(one, max, divisor); }, x);
      if constexpr (!S.softcap) return d;
      return present<S.classes>(column, d, minus_infinity<A>());
    };
    const A sum = row.sum(false, [&](int column, const Pack<A>& x) {
      return map([](A d) { return probability<exact>(d); }, distances(column, x));
    });
    A mean = 0;
    if constexpr (S.entropy) {
      const A weighted = row.sum(true, [&](int column, const Pack<A>& x) {
        return map(
            [](A d) {
              const A e = probability<exact>(d);
              return e > A(0) ? e * d : (e == A(0) ? A(0) : e);  // 0 log 0 = 0, NaN stays
            },
            distances(column, x));
      });
      mean = quotient<true>(weighted, sum);
    }
    if (!row.leads()) return;
    const A log_sum = logarithm(sum);
    const auto log_prob = [&](const Chosen& one) {
      const A of_chosen = distance(one.logit, max, divisor);
      return S.part ? (one.here ? of_chosen : A(0)) : of_chosen - log_sum;
    };
    if constexpr (S.second) {
      log_probs[row_index] = is_class(id) ? log_prob(chosen) : of_none(fault, row_index, id);
      second_log_probs[row_index] =
          is_class(second) ? log_prob(also) : of_none(second_fault, row_index, second);
    } else {
      log_probs[row_index] = log_prob(chosen);
    }
    if constexpr (S.entropy) entropy[row_index] = log_sum - mean;
    if constexpr (S.keeps) statistics[row_index] = {max, sum, mean};
  }

  struct Chosen {
    bool here;  // its class is of this part
    A logit;
  };

  LIGER_DEVICE Chosen choose(const T* x, long long id) const {
    if (S.second && !is_class(id)) return {false, A(0)};
    const long long own = S.part ? id - first_class : id;
    const bool here = !S.part || (own >= 0 && own < S.classes);
    return {here, here ? widen(x[own]) : A(0)};
  }

  // An ignored row is not read, so it may hold anything.
  LIGER_DEVICE void without_id(long long row_index, long long id, long long second) const {
    const A value = of_none(fault, row_index, id);
    log_probs[row_index] = value;
    if constexpr (S.second) second_log_probs[row_index] = of_none(second_fault, row_index, second);
    if constexpr (S.entropy) entropy[row_index] = value;
    if constexpr (S.keeps) statistics[row_index] = {A(0), A(1), A(0)};
  }

  LIGER_DEVICE A of_none(const InputFault& told, long long row_index, long long id) const {
    if (id == ignore_index) return A(0);
    record_fault(told, first_row + row_index, id, classes());
    return A(bits_as<float>(0x7fc00000u));
  }

  LIGER_DEVICE long long classes() const { return S.part ? all_classes : S.classes; }
  LIGER_DEVICE bool is_class(long long id) const {
    return id >= 0 && id < classes() && id != ignore_index;
  }

  LIGER_DEVICE A distance(A x, A max, A divisor) const {
    return distance_of_logit<exact, S.softcap, S.tempered>(x, max, divisor, softcap);
  }
};

template <LogProbRowsSpec S>
constexpr int cluster_of<LogProbRows<S>> = S.cluster;
template <LogProbRowsSpec S>
constexpr int resident_of<LogProbRows<S>> = S.kept > 0 ? 768 / S.threads : 1;

struct LogProbGradientSpec {
  Dtype logits;
  int classes;
  bool softcap;
  bool tempered;
  int align_bytes;
  bool entropy;   // a gradient of it arrives
  bool in_place;  // the gradient overwrites the logits
  bool part;      // of the classes
  bool second;    // a row has a second id
  int threads;    // tuned
  int rows;       // tuned
};

template <LogProbGradientSpec S>
struct LogProbGradient {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  using Wide = Arithmetic<exact ? Dtype::f64 : Dtype::f32>;
  using Row = StreamedRow<S.classes, S.threads, S.align_bytes, !S.in_place, T>;

  const T* logits;
  const long long* ids;
  const LogProbStatistics<A>* statistics;
  const A* dlog_probs;
  const A* dentropy;
  T* dlogits;
  long long rows;
  long long logits_stride;
  long long dlogits_stride;
  long long ignore_index;
  long long first_class;
  long long all_classes;
  double temperature;
  double softcap;
  const long long* second_ids;
  const A* dsecond_log_probs;

  LIGER_DEVICE void operator()(long long block) const {
    each_row_from_the_end<S.threads, S.rows>(block, rows,
                                             [&](long long row, int thread, bool active) {
                                               if (active) one_row(row, thread);
                                             });
  }

 private:
  // A row's numbers. They shift the whole row, so for exact types they are made in double.
  struct Factors {
    A max;
    A mean;
    A divisor;     // of distances
    A of_exp;      // dlog_prob / sum / temperature, of both ids
    A of_entropy;  // dentropy / sum / temperature
    A of_id;       // dlog_prob / temperature
    A of_second;
  };

  LIGER_DEVICE void one_row(long long row_index, int thread) const {
    const T* const x = logits + row_index * logits_stride;
    T* const dx = dlogits + row_index * dlogits_stride;
    const Row row(x, thread);
    const long long id = ids[row_index];
    const long long second = S.second ? second_ids[row_index] : ignore_index;
    if (!is_class(id) && !(S.second && is_class(second))) {
      row.fill(dx, A(0));
      return;
    }
    const Chosen chosen = choose(x, id);
    const Chosen also = S.second ? choose(x, second) : Chosen{};
    const auto known = statistics[row_index];
    const Wide sum = Wide(known.sum);
    Wide g = !S.second || is_class(id) ? Wide(dlog_probs[row_index]) : Wide(0);
    Wide g2 = S.second && is_class(second) ? Wide(dsecond_log_probs[row_index]) : Wide(0);
    Wide h = S.entropy ? Wide(dentropy[row_index]) : Wide(0);
    if constexpr (S.tempered) {
      g = quotient<true>(g, Wide(temperature));
      g2 = quotient<true>(g2, Wide(temperature));
      h = quotient<true>(h, Wide(temperature));
    }
    const Factors c = {known.max,
                       known.mean,
                       divisor_of_distances<exact, A>(temperature),
                       A(quotient<true>(S.second ? g + g2 : g, sum)),
                       A(quotient<true>(h, sum)),
                       A(S.second && id == second ? g + g2 : g),
                       A(g2)};
    row.store(dx, [&](int, const Pack<A>& x) {
      return map([&](A one) { return gradient_at(one, A(0), c); }, x);
    });
    // Stored twice, by one thread: cheaper than a look for the id in every pack.
    const auto store = [&](const Chosen& one, A of_id) {
      if (one.here && row.owns(one.column))
        dx[one.column] = narrow<T>(gradient_at(one.logit, of_id, c));
    };
    if (!S.second || is_class(id)) store(chosen, c.of_id);
    if (S.second && is_class(second) && second != id) store(also, c.of_second);
  }

  struct Chosen {
    bool here;  // its class is of this part
    int column;
    A logit;  // used by the one thread that overwrites it
  };

  LIGER_DEVICE Chosen choose(const T* x, long long id) const {
    if (S.second && !is_class(id)) return {false, 0, A(0)};
    const long long own = S.part ? id - first_class : id;
    const bool here = !S.part || (own >= 0 && own < S.classes);
    const int column = static_cast<int>(own);
    return {here, column, here ? widen(x[column]) : A(0)};
  }

  LIGER_DEVICE bool is_class(long long id) const {
    return id >= 0 && id < (S.part ? all_classes : S.classes) && id != ignore_index;
  }

  LIGER_DEVICE A gradient_at(A x, A at_id, const Factors& c) const {
    A slope = 1;
    if constexpr (S.softcap) slope = hyperbolic_tangent<exact>(quotient<true>(x, A(softcap))).slope;
    const A d = distance_of_logit<exact, S.softcap, S.tempered>(x, c.max, c.divisor, softcap);
    const A e = probability<exact>(d);
    A weight = c.of_exp;
    // 0 log 0 = 0: a logit of -inf has no share in the entropy.
    if constexpr (S.entropy) weight = e == A(0) ? A(0) : fused(c.of_entropy, d - c.mean, weight);
    return fused(-weight, e, at_id) * slope;
  }
};

}  // namespace liger
