// Kullback-Leibler divergence of q = softmax(x / temperature) of rows of logits x from
// probabilities p that are given, sum p (log(max(p, eps)) - log q), and in the same launch its
// gradient
//   share (sum(p) q - p) / temperature
// in place of the logits. What has probability zero adds nothing.
#pragma once
#include "device/fault.h"
#include "device/logit_distance.h"
#include "device/reread_row.h"
#include "loss/kl_div.h"

namespace liger {

struct LinearKlDivRowsSpec {
  Dtype logits;
  int classes;
  int align_bytes;
  bool tempered;  // the temperature is not 1
  bool has_labels;
  bool with_gradient;  // which overwrites the logits
  int unit;            // the gradient is multiplied by it, so that a small type holds it
  bool held;
  int threads;  // tuned
  int rows;     // tuned
  int cluster;  // tuned: blocks of a row
  int kept;     // tuned: packs that a thread of a held row has in registers
};

LIGER_DEVICE constexpr DivergenceSpec measured(LinearKlDivRowsSpec of) {
  DivergenceSpec spec{};
  spec.input = of.logits;
  return spec;
}

template <LinearKlDivRowsSpec S>
struct LinearKlDivRows {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  using Wide = Arithmetic<exact ? Dtype::f64 : Dtype::f32>;
  using Row = RereadRow<S, S.classes, T, !S.with_gradient>;
  using GivenRow = RereadRow<S, S.classes, T>;

  T* logits;
  const T* probabilities;
  const long long* labels;
  const A* share;  // of one row in the loss
  A* loss;         // of each row, times no share
  InputFault fault;
  long long rows;
  long long logits_stride;
  long long probabilities_stride;
  long long first_row;  // of this chunk, for the fault's message
  long long ignore_index;
  double eps;
  double temperature;

  LIGER_DEVICE void operator()(long long block) const {
    each_reread_row_once<S>(block, rows, [&](long long row, int thread) {
      T* const x = logits + row * logits_stride;
      one_row(row, x, Row(x, thread),
              GivenRow(probabilities + row * probabilities_stride, thread, 1));
    });
  }

 private:
  LIGER_DEVICE void one_row(long long row, T* to, Row x, GivenRow p) const {
    if constexpr (S.has_labels) {
      const long long label = labels[row];
      if (label == ignore_index || label < 0 || label >= S.classes)
        return without_label(row, label, to, x);
    }
    x.read();
    p.read();
    const A max = finite(x.combined_elements(
        [](int, const Pack<A>& a, const Pack<A>&) { return a; }, Larger{}, minus_infinity<A>(), p));
    const A divisor = divisor_of_distances<exact, A>(temperature);
    const auto distance = [&](A a) {
      return distance_of_logit<exact, false, S.tempered>(a, max, divisor, 0.0);
    };
    const auto exponential_of = [&](A a) { return probability<exact>(distance(a)); };
    const Two<A> sums = x.two_sums(
        false,
        [&](int column, const Pack<A>& a, const Pack<A>& b) {
          return Two<Pack<A>>{map(exponential_of, a), present<S.classes>(column, b, A(0))};
        },
        p);
    const A log_sum = logarithm(sums.first);
    const KlDivMeasure<measured(S)> measure(eps);
    const A apart = x.sum(
        true,
        [&](int column, const Pack<A>& a, const Pack<A>& b) {
          const auto of_class = [&](A a, A b) { return measure.at(distance(a) - log_sum, b).loss; };
          return present<S.classes>(column, map(of_class, a, b), A(0));
        },
        p);
    if constexpr (S.with_gradient) {
      Wide scale = Wide(*share) * Wide(S.unit);
      if constexpr (S.tempered) scale = quotient<true>(scale, Wide(temperature));
      const A of_given = A(scale);
      const A of_exponential = A(quotient<true>(scale * Wide(sums.second), Wide(sums.first)));
      x.store(
          to,
          [&](int, const Pack<A>& a, const Pack<A>& b) {
            return map(
                [&](A a, A b) { return fused(of_exponential, exponential_of(a), -(of_given * b)); },
                a, b);
          },
          p);
    }
    if (x.leads()) loss[row] = apart;
  }

  // Such a row is not read.
  LIGER_DEVICE void without_label(long long row, long long label, T* to, const Row& x) const {
    if constexpr (S.with_gradient) x.fill(to, A(0));
    if (!x.leads()) return;
    const bool ignored = label == ignore_index;
    loss[row] = ignored ? A(0) : A(bits_as<float>(0x7fc00000u));
    if (!ignored) record_fault(fault, first_row + row, label, S.classes);
  }
};

template <LinearKlDivRowsSpec S>
constexpr int cluster_of<LinearKlDivRows<S>> = S.cluster;
template <LinearKlDivRowsSpec S>
constexpr int resident_of<LinearKlDivRows<S>> = S.kept > 0 ? 768 / S.threads : 1;

}  // namespace liger
