// Of each row of a student's and a teacher's logits, with p and q their softmax:
//   ce = -log p[y],  tvd = sum |p - q| / 2,
// and the gradient of both in the student's logits:
//   dce (p - [y]) + dtvd p (s - sigma) / 2,  s = sign(p - q),  sigma = sum p s.
// Both rows are read once and held on the chip where they fit there; the backward, which is given
// what the forward kept of each row, reads them once more.
#pragma once
#include "device/fault.h"
#include "device/reread_row.h"

namespace liger {

struct CeTvdForwardSpec {
  Dtype logits;
  int classes;
  int align_bytes;
  bool held;
  int threads;  // tuned
  int rows;     // tuned
  int cluster;  // tuned: blocks of a row
  int kept;     // tuned: packs that a thread of a held row has in registers
};

// Softmax of one logit of a row.
template <bool Exact, class A>
struct SoftmaxOf {
  A max;
  A sum;
  LIGER_DEVICE A operator()(A x) const { return quotient<Exact>(probability<Exact>(x - max), sum); }
};

template <class A>
LIGER_DEVICE A sign_of(A x) {
  return x > A(0) ? A(1) : (x < A(0) ? A(-1) : A(0));
}

template <CeTvdForwardSpec S>
struct CeTvdForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static_assert(on_host || S.threads >= team_lanes, "rows of a team may be ignored apart");
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  using Row = RereadRow<S, S.classes, T>;

  const T* student;
  const T* teacher;
  const long long* target;
  A* ce;
  A* distance;
  A* student_max;  // null: these are not kept
  A* student_sum;
  A* teacher_max;
  A* teacher_sum;
  A* sigma;
  InputFault fault;
  long long rows;
  long long student_stride;
  long long teacher_stride;
  long long ignore_index;

  LIGER_DEVICE void operator()(long long block) const {
    each_reread_row<S>(block, rows, [&](long long row, int share) {
      one_row(row, Row(student + row * student_stride, share),
              Row(teacher + row * teacher_stride, share, 1));
    });
  }

 private:
  LIGER_DEVICE void one_row(long long row, Row x, Row t) const {
    const long long label = target[row];
    if (label == ignore_index || label < 0 || label >= S.classes)
      return without_label(row, label, x);
    const A score = widen(student[row * student_stride + label]);
    x.read();
    t.read();
    const auto max = largest_of_two(x, t);
    SoftmaxOf<exact, A> p{finite(max.first), A(1)};
    SoftmaxOf<exact, A> q{finite(max.second), A(1)};
    p.sum = x.sum(false, [&p](int, const Pack<A>& a) {
      return map([&p](A one) { return probability<exact>(one - p.max); }, a);
    });
    q.sum = x.sum(
        true,
        [&q](int, const Pack<A>&, const Pack<A>& b) {
          return map([&q](A one) { return probability<exact>(one - q.max); }, b);
        },
        t);
    const A apart = x.sum(
        true,
        [&](int, const Pack<A>& a, const Pack<A>& b) {
          return map(
              [&](A a, A b) {
                const A d = p(a) - q(b);
                return d < A(0) ? -d : d;
              },
              a, b);
        },
        t);
    const A signs = x.sum(
        true,
        [&](int, const Pack<A>& a, const Pack<A>& b) {
          return map(
              [&](A a, A b) {
                const A one = p(a);
                return one * sign_of(one - q(b));
              },
              a, b);
        },
        t);
    if (!x.leads()) return;
    ce[row] = (p.max - score) + logarithm(p.sum);
    distance[row] = apart * A(0.5);
    keep(row, p, q, signs);
  }

  // Such a row is not read.
  LIGER_DEVICE void without_label(long long row, long long label, const Row& x) const {
    if (!x.leads()) return;
    const bool ignored = label == ignore_index;
    ce[row] = distance[row] = ignored ? A(0) : A(bits_as<float>(0x7fc00000u));
    keep(row, {A(0), A(1)}, {A(0), A(1)}, A(0));
    if (!ignored) record_fault(fault, row, label, S.classes);
  }

  LIGER_DEVICE void keep(long long row, const SoftmaxOf<exact, A>& p, const SoftmaxOf<exact, A>& q,
                         A signs) const {
    if (!student_max) return;
    student_max[row] = p.max;
    student_sum[row] = p.sum;
    teacher_max[row] = q.max;
    teacher_sum[row] = q.sum;
    sigma[row] = signs;
  }
};

template <CeTvdForwardSpec S>
constexpr int cluster_of<CeTvdForward<S>> = S.cluster;
template <CeTvdForwardSpec S>
constexpr int resident_of<CeTvdForward<S>> = S.kept > 0 ? 768 / S.threads : 1;

struct CeTvdBackwardSpec {
  Dtype logits;
  int classes;
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

template <CeTvdBackwardSpec S>
struct CeTvdBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  using RowShape = RowOf<S.classes, S.threads, S.rows>;

  const A* dce;
  const A* dtvd;
  const T* student;
  const T* teacher;
  const long long* target;
  const A* student_max;
  const A* student_sum;
  const A* teacher_max;
  const A* teacher_sum;
  const A* sigma;
  T* dstudent;
  long long rows;
  long long student_stride;
  long long teacher_stride;
  long long ignore_index;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (active) one_row(row, thread);
    });
  }

 private:
  LIGER_DEVICE void one_row(long long row, int thread) const {
    T* const to = dstudent + row * S.classes;
    const long long label = target[row];
    if (label == ignore_index || label < 0 || label >= S.classes) {
      RowShape::each(thread, [&](int, int pack) {
        store_pack<S.classes, S.align_bytes>(to, pack, filled(A(0)));
      });
      return;
    }
    const SoftmaxOf<exact, A> p{student_max[row], student_sum[row]};
    const SoftmaxOf<exact, A> q{teacher_max[row], teacher_sum[row]};
    const A of_ce = dce[row];
    const A half = dtvd[row] * A(0.5);
    const A rest = of_ce - half * sigma[row];
    RowShape::each(thread, [&](int, int pack) {
      const auto a = load_pack<S.classes, S.align_bytes>(student + row * student_stride, pack);
      const auto b = load_pack<S.classes, S.align_bytes>(teacher + row * teacher_stride, pack);
      auto gradient = map(
          [&](A a, A b) {
            const A one = p(a);
            return one * fused(half, sign_of(one - q(b)), rest);
          },
          a, b);
      if (label / pack_size == pack) {
        LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
          gradient.v[i] -= label % pack_size == i ? of_ce : A(0);
        }
      }
      store_pack<S.classes, S.align_bytes>(to, pack, gradient);
    });
  }
};

}  // namespace liger
