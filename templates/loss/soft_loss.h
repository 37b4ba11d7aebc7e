// How far a row x of a student's logits is from a row t of a teacher's, and the gradient in x.
#pragma once
#include "device/logit_distance.h"
#include "device/reread_row.h"
#include "loss/jsd.h"
#include "loss/tvd.h"

namespace liger {

struct DistillationRowsSpec {
  Dtype logits;
  int classes;
  int align_bytes;
  bool tvd;  // the soft loss; neither: the Jensen-Shannon divergence
  bool cosine;
  bool at_zero;   // the loss's number is 0
  bool at_one;    // the loss's number is 1
  bool tempered;  // the temperature is not 1
  bool has_labels;
  bool hard;           // there is a cross entropy with the labels
  bool with_gradient;  // which overwrites the student's logits
  bool known;          // the statistics of both rows are
  int unit;            // the gradient is multiplied by it, so that a small type holds it
  bool held;
  int threads;  // tuned
  int rows;     // tuned
  int cluster;  // tuned: blocks of a row
  int kept;     // tuned: packs that a thread of a held row has in registers
};

LIGER_DEVICE constexpr DivergenceSpec measured(DistillationRowsSpec of) {
  DivergenceSpec spec{};
  spec.input = of.logits;
  spec.at_zero = of.at_zero;
  spec.at_one = of.at_one;
  return spec;
}

template <DistillationRowsSpec S, bool Tvd = S.tvd>
struct MeasureOfSpec {
  using Type = JsdMeasure<measured(S)>;
};
template <DistillationRowsSpec S>
struct MeasureOfSpec<S, true> {
  using Type = TvdMeasure<measured(S)>;
};

// What a softmax of a row is made of: exp(d) / sum, d - log_sum with d the distance from max. In
// twos log_sum is what log2 of a share is ahead of the logit.
template <class A>
struct SoftmaxNumbers {
  A max;
  A sum;
  A log_sum;
};

// A divergence D of q = softmax(x / temperature) from p = softmax(t / temperature). With g = dD /
// dlog q the gradient in x is (g - q sum(g)) / temperature. Where nothing is exact logarithms are
// those of 2, and one fused operation makes them of logits.
template <DistillationRowsSpec S>
class SoftmaxDivergence {
 public:
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using Wide = Arithmetic<exact ? Dtype::f64 : Dtype::f32>;
  using Measure = typename MeasureOfSpec<S>::Type;
  static constexpr bool in_twos = Measure::of_probabilities;
  // The gradient of -log softmax(x)[y] but for [y] is made along with the other.
  static constexpr bool takes_hard = in_twos && !S.tempered;

  template <class Row, class TeacherRow>
  LIGER_DEVICE SoftmaxDivergence(const Row& x, const TeacherRow& t, const Two<A>& max,
                                 const Two<A>& known, double number, double temperature)
      : measure_(number),
        temperature_(temperature),
        divisor_(divisor_of_distances<exact, A>(temperature)),
        student_{max.first, A(0), A(0)},
        teacher_{max.second, A(0), A(0)} {
    const Two<A> exponentials = S.known ? known : exponentials_of(x, t);
    take_sum(student_, exponentials.first);
    take_sum(teacher_, exponentials.second);

    const auto of_pack = [this](int, const Pack<A>& a, const Pack<A>& b) {
      Two<Pack<A>> both;
      LIGER_EACH_ELEMENT for (int i = 0; i < pack_size; ++i) {
        const LossAndSlope<A> one = at(a.v[i], b.v[i]);
        both.first.v[i] = one.loss;
        both.second.v[i] = one.slope;
      }
      return both;
    };
    if constexpr (S.with_gradient) {
      const Two<A> sums = x.two_sums(true, of_pack, t);
      loss_ = sums.first;
      slopes_ = sums.second;
    } else {
      loss_ = x.sum(
          true,
          [&](int column, const Pack<A>& a, const Pack<A>& b) {
            return of_pack(column, a, b).first;
          },
          t);
    }
  }

  LIGER_DEVICE A loss() const { return loss_; }
  // Of exp(x / temperature - its maximum).
  LIGER_DEVICE A student_sum() const { return student_.sum; }

  // What the gradient is multiplied with.
  LIGER_DEVICE void weigh(Wide scale, Wide hard) {
    if constexpr (S.tempered) scale = quotient<true>(scale, Wide(temperature_));
    of_slope_ = A(scale);
    if constexpr (in_twos) {
      of_probability_ = A((takes_hard ? hard : Wide(0)) - scale * Wide(slopes_));
    } else {
      of_exponential_ = A(quotient<true>(scale * Wide(slopes_), Wide(student_.sum)));
    }
  }
  LIGER_DEVICE A gradient(A a, A b) const {
    if constexpr (in_twos) {
      const A x = log2_of(a, student_);
      const A slope = measure_.slope_over_q(log2_of(b, teacher_) - x);
      return power_of_two(x) * fused(of_slope_, slope, of_probability_);
    } else {
      const A e = exponential_of(a, student_);
      return fused(-of_exponential_, e, of_slope_ * at(a, b).slope);
    }
  }

 private:
  static constexpr double log2_e = 1.44269504088896341;

  LIGER_DEVICE A distance(A x, A max) const {
    return distance_of_logit<exact, false, S.tempered>(x, max, divisor_, 0.0);
  }

  template <class Row, class TeacherRow>
  LIGER_DEVICE Two<A> exponentials_of(const Row& x, const TeacherRow& t) const {
    const auto of_student = [this](A a) { return exponential_of(a, student_); };
    const auto of_teacher = [this](A b) { return exponential_of(b, teacher_); };
    return x.two_sums(
        false,
        [&](int, const Pack<A>& a, const Pack<A>& b) {
          return Two<Pack<A>>{map(of_student, a), map(of_teacher, b)};
        },
        t);
  }

  // exp of an element's distance from the largest.
  LIGER_DEVICE A exponential_of(A one, const SoftmaxNumbers<A>& of) const {
    if constexpr (in_twos) return power_of_two(fused(one, twos(), -of.max * twos()));
    return probability<exact>(distance(one, of.max));
  }
  // The logarithm of an element's share.
  LIGER_DEVICE A log2_of(A one, const SoftmaxNumbers<A>& of) const {
    return fused(one, twos(), of.log_sum);
  }
  LIGER_DEVICE A twos() const { return S.tempered ? divisor_ * A(log2_e) : A(log2_e); }

  LIGER_DEVICE void take_sum(SoftmaxNumbers<A>& of, A sum) const {
    of.sum = sum;
    of.log_sum = logarithm(sum);
    if constexpr (in_twos) of.log_sum = -fused(of.max, twos(), of.log_sum * A(log2_e));
  }

  // The loss of an element and its derivative in log q.
  LIGER_DEVICE LossAndSlope<A> at(A a, A b) const {
    if constexpr (in_twos) {
      const A of_student = log2_of(a, student_);
      const A of_teacher = log2_of(b, teacher_);
      return measure_.at(of_teacher - of_student, power_of_two(of_student),
                         power_of_two(of_teacher));
    } else {
      return of_distances(a, b);
    }
  }
  LIGER_DEVICE LossAndSlope<A> of_distances(A a, A b) const {
    const A x = distance(a, student_.max);
    const A t = distance(b, teacher_.max);
    if constexpr (S.tvd) {
      const A q = quotient<exact>(probability<exact>(x), student_.sum);
      const A p = quotient<exact>(probability<exact>(t), teacher_.sum);
      const LossAndSlope<A> in_q = measure_.at(q, p);
      return {in_q.loss, in_q.slope * q};
    } else {
      return measure_.at(x - student_.log_sum, t - teacher_.log_sum);
    }
  }

  const Measure measure_;
  const double temperature_;
  const A divisor_;
  SoftmaxNumbers<A> student_, teacher_;
  A loss_, slopes_;
  A of_slope_, of_exponential_, of_probability_;
};

// number (1 - cos(x, t)) = number |u - v|^2 / 2 with the directions u = x / |x| and v = t / |t|:
// where they are nearly one, a cosine has no digits left. A row of zeros has a cosine of 0 and no
// gradient.
template <DistillationRowsSpec S>
class CosineDistance {
 public:
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using Wide = Arithmetic<exact ? Dtype::f64 : Dtype::f32>;

  template <class Row, class TeacherRow>
  LIGER_DEVICE CosineDistance(const Row& x, const TeacherRow& t, const Two<A>&, const Two<A>&,
                              double number, double)
      : number_(number) {
    const auto square = [](A one) { return one * one; };
    const Two<A> squares = x.two_sums(
        false,
        [&](int column, const Pack<A>& a, const Pack<A>& b) {
          return Two<Pack<A>>{present<S.classes>(column, map(square, a), A(0)),
                              present<S.classes>(column, map(square, b), A(0))};
        },
        t);
    const bool zeros = squares.first == A(0) || squares.second == A(0);
    of_student_ = zeros ? A(0) : A(reciprocal_root(Wide(squares.first)));
    of_teacher_ = zeros ? A(0) : A(reciprocal_root(Wide(squares.second)));
    const A apart = x.sum(
        true,
        [&](int column, const Pack<A>& a, const Pack<A>& b) {
          return present<S.classes>(
              column, map([&](A a, A b) { return square(difference(a, b)); }, a, b), A(0));
        },
        t);
    distance_ = zeros ? A(1) : A(0.5) * apart;
  }

  LIGER_DEVICE A loss() const { return A(number_) * distance_; }

  static constexpr bool takes_hard = false;
  LIGER_DEVICE void weigh(Wide scale, Wide) {
    scale_ = A(scale * Wide(number_) * Wide(of_student_));
  }
  LIGER_DEVICE A gradient(A a, A b) const {
    return scale_ * fused(-distance_, of_student_ * a, difference(a, b));
  }

 private:
  LIGER_DEVICE A difference(A a, A b) const { return fused(of_student_, a, -(of_teacher_ * b)); }

  const double number_;
  A of_student_, of_teacher_;  // reciprocals of lengths
  A distance_;
  A scale_;
};

template <DistillationRowsSpec S, bool Cosine = S.cosine>
struct SoftLossOfSpec {
  using Type = SoftmaxDivergence<S>;
};
template <DistillationRowsSpec S>
struct SoftLossOfSpec<S, true> {
  using Type = CosineDistance<S>;
};
template <DistillationRowsSpec S>
using SoftLoss = typename SoftLossOfSpec<S>::Type;

}  // namespace liger
