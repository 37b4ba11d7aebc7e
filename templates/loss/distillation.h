// Distillation of rows of a student's logits x from a teacher's: a soft loss of both rows, a hard
// one of the label, -log softmax(x)[y] without the temperature, and in the same launch
//   weight_soft dsoft + weight_hard (softmax(x) - [y]),
// both times `share`, in place of the student's logits.
#pragma once
#include "device/fault.h"
#include "loss/soft_loss.h"

namespace liger {

template <DistillationRowsSpec S>
struct DistillationRows {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  using Wide = Arithmetic<exact ? Dtype::f64 : Dtype::f32>;
  using Row = RereadRow<S, S.classes, T, !S.with_gradient>;
  using TeacherRow = RereadRow<S, S.classes, T>;
  static constexpr bool takes_hard = SoftLoss<S>::takes_hard;

  T* student;
  const T* teacher;
  const long long* labels;
  const A* share;  // 1 / the rows that count
  A* soft_loss;    // of each row, neither weighted nor divided
  A* hard_loss;
  InputFault fault;
  const LogProbStatistics<A>* statistics;  // of rows that are known, at the temperature
  const LogProbStatistics<A>* teacher_statistics;
  long long rows;
  long long student_stride;
  long long teacher_stride;
  long long first_row;  // of this chunk, for the fault's message
  long long ignore_index;
  double number;  // of the soft loss
  double temperature;
  double weight_soft;
  double weight_hard;

  LIGER_DEVICE void operator()(long long block) const {
    each_reread_row_once<S>(block, rows, [&](long long row, int thread) {
      T* const x = student + row * student_stride;
      const T* const t = teacher + row * teacher_stride;
      one_row(row, x, t, Row(x, thread), TeacherRow(t, thread, 1));
    });
  }

 private:
  LIGER_DEVICE void one_row(long long row, T* logits, const T* of_teacher, Row x,
                            TeacherRow t) const {
    long long label = 0;
    if constexpr (S.has_labels) {
      label = labels[row];
      const bool no_class = S.hard && (label < 0 || label >= S.classes);
      if (label == ignore_index || no_class) return without_label(row, label, logits, x);
    }
    // Before the reductions: their barriers keep these from being overwritten in place.
    const A x_of_label = S.hard ? widen(logits[label]) : A(0);
    const A t_of_label = S.hard ? widen(of_teacher[label]) : A(0);
    x.read();
    t.read();
    Two<A> max, known;
    if constexpr (S.known) {
      const auto of_student = statistics[row];
      const auto of_teacher = teacher_statistics[row];
      max = {of_student.max, of_teacher.max};
      known = {of_student.sum, of_teacher.sum};
    }
    if constexpr (S.known || (S.cosine && !S.hard)) {
      x.wait();
    } else {
      max = maxima(x, t);
    }
    SoftLoss<S> soft(x, t, max, known, number, temperature);
    A sum = 1;  // of exp(x - max)
    if constexpr (S.hard && (S.tempered || S.cosine)) {
      sum = x.sum(true, [&](int, const Pack<A>& a) {
        return map([&](A one) { return probability<exact>(one - max.first); }, a);
      });
    } else if constexpr (S.hard) {
      sum = soft.student_sum();
    }
    if constexpr (S.with_gradient) {
      const Wide hit = Wide(weight_hard) * Wide(*share) * Wide(S.unit);
      const A of_exponential = A(quotient<true>(hit, Wide(sum)));
      soft.weigh(Wide(weight_soft) * Wide(*share) * Wide(S.unit), S.hard ? hit : Wide(0));
      const Slopes slopes{soft, max.first, of_exponential};
      x.store(
          logits,
          [&](int, const Pack<A>& a, const Pack<A>& b) {
            return map([&](A one, A other) { return slopes.at(one, other, A(0)); }, a, b);
          },
          t);
      // Stored twice, by one thread: cheaper than a look for the label in every pack.
      if constexpr (S.hard) {
        const int y = static_cast<int>(label);
        if (x.owns(y)) logits[y] = narrow<T>(slopes.at(x_of_label, t_of_label, A(-hit)));
      }
    }
    if (!x.leads()) return;
    soft_loss[row] = soft.loss();
    if constexpr (S.hard) hard_loss[row] = (max.first - x_of_label) + logarithm(sum);
  }

  // What the gradient is made of. No lambda: of what is called twice, compilers make no vectors.
  struct Slopes {
    const SoftLoss<S>& soft;
    A max;
    A of_exponential;

    LIGER_DEVICE A at(A a, A b, A at_label) const {
      const A of_soft = soft.gradient(a, b);
      if constexpr (!S.hard) return of_soft;
      if constexpr (takes_hard) return of_soft + at_label;
      const A e = probability<exact>(a - max);
      return of_soft + fused(of_exponential, e, at_label);
    }
  };

  static LIGER_DEVICE Two<A> maxima(const Row& x, const TeacherRow& t) {
    const auto largest = largest_of_two(x, t);
    return {finite(largest.first), finite(largest.second)};
  }

  // Such a row is not read.
  LIGER_DEVICE void without_label(long long row, long long label, T* logits, const Row& x) const {
    if constexpr (S.with_gradient) x.fill(logits, A(0));
    if (!x.leads()) return;
    const bool ignored = label == ignore_index;
    const A value = ignored ? A(0) : A(bits_as<float>(0x7fc00000u));
    soft_loss[row] = value;
    if constexpr (S.hard) hard_loss[row] = value;
    if (!ignored) record_fault(fault, first_row + row, label, S.classes);
  }
};

template <DistillationRowsSpec S>
constexpr int cluster_of<DistillationRows<S>> = S.cluster;
template <DistillationRowsSpec S>
constexpr int resident_of<DistillationRows<S>> = S.kept > 0 ? 768 / S.threads : 1;

}  // namespace liger
