// Cross entropy of rows of logits, with its gradient in the same launch.
//   z = softcap * tanh(x / softcap), or x;   p = softmax(z);   lse = log(sum(exp(z)))
//   loss = w[y] (1 - e) (lse - z[y]) + (e / V) sum_c w[c] (lse - z[c])  [scaled by totals.loss]
//        + lambda lse^2                                                  [scaled by totals.z_loss]
#pragma once
#include "device/fault.h"
#include "device/loss_gradient.h"
#include "device/reread_row.h"
#include "loss/totals.h"

namespace liger {

struct CrossEntropyRowsSpec {
  Dtype logits;
  int classes;
  int align_bytes;
  bool has_weight;
  bool has_grad_output;  // the gradient is multiplied by one factor for each row
  bool smoothing;
  bool z_loss;
  bool softcap;
  bool token_scaling;  // loss and gradient are multiplied by p[y], itself without gradient
  bool accuracy;       // wants argmax
  bool with_loss;
  bool with_gradient;
  bool scaled;    // the gradient is multiplied by totals
  int unit;       // and by this, so that a small type holds it
  bool in_place;  // the gradient overwrites the logits
  bool joined;    // a row's loss has its z loss in it
  bool held;      // a row is read once
  int threads;    // tuned
  int rows;       // tuned
  int cluster;    // tuned: blocks of a row
  int kept;       // tuned: packs that a thread of a held row has in registers
};

template <CrossEntropyRowsSpec S>
struct CrossEntropyRows {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static_assert(on_host || S.threads > team_lanes || !S.in_place,
                "a row that is overwritten needs the barriers of its reductions");
  static_assert(on_host || S.rows == 1 || S.threads <= team_lanes,
                "a row has its block, or meets by shuffles");
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  using Row = RereadRow<S, S.classes, T, !S.in_place>;
  using Wide = Arithmetic<exact ? Dtype::f64 : Dtype::f32>;

  const T* logits;
  const long long* target;
  const A* class_weight;
  const LossTotals<A>* totals;
  const A* grad_output;
  A* loss;    // of each row, unscaled
  A* z_loss;  // of each row, unscaled
  long long* predicted;
  T* dlogits;
  InputFault fault;
  long long rows;
  long long logits_stride;
  long long dlogits_stride;
  long long ignore_index;
  long long first_row;  // of this chunk, for the fault's message
  double label_smoothing;
  double lse_square_scale;
  double softcap;

  LIGER_DEVICE void operator()(long long block) const {
    each_reread_row_once<S>(block, rows, [&](long long row, int share) { one_row(row, share); });
  }

 private:
  struct Stats {
    A max;  // 0 where all is -inf: any finite reference keeps exp() away from inf - inf
    A sum;  // of exp(z - max)
    A log_sum;
  };

  LIGER_DEVICE A capped(A x) const { return liger::capped<exact, S.softcap>(x, softcap); }
  LIGER_DEVICE Pack<A> scores(int column, const Pack<A>& x) const {
    if constexpr (!S.softcap) return x;
    return present<S.classes>(column, map([this](A one) { return capped(one); }, x),
                              minus_infinity<A>());
  }
  static LIGER_DEVICE bool inside(int column) { return column >= 0 && column < S.classes; }

  LIGER_DEVICE void one_row(long long row_index, int share) const {
    const long long label = target[row_index];
    const T* const x = logits + row_index * logits_stride;
    T* const dx = dlogits + row_index * dlogits_stride;
    Row row(x, share);
    if (label == ignore_index || label < 0 || label >= S.classes) {
      without_label(row_index, label, row, dx);
      return;
    }
    const int y = static_cast<int>(label);
    // Before the reductions: their barriers keep it from being overwritten in place.
    const A x_of_label = widen(x[y]);
    const A score = capped(x_of_label);
    A weight = 1;
    if constexpr (S.has_weight) weight = class_weight[y];
    row.read();
    const Stats stats = stats_of(row, row_index);
    Two<A> smooth;  // sum of w (z - max), sum of w
    if constexpr (S.smoothing) smooth = smooth_of(row, stats.max);

    const Wide spread = S.smoothing ? Wide(label_smoothing) * Wide(1.0 / S.classes) : Wide(0);
    const Wide hit = S.smoothing ? Wide(weight) * (Wide(1) - Wide(label_smoothing)) : Wide(weight);
    Wide factor = 1;
    if constexpr (S.token_scaling) {
      factor = quotient<true>(exponential<exact>(Wide(score) - Wide(stats.max)), Wide(stats.sum));
    }
    const A lse = stats.max + stats.log_sum;

    if constexpr (S.with_gradient) {
      Wide loss_scale = factor;
      Wide z_scale = factor;
      if constexpr (S.scaled) {
        loss_scale *= totals->loss * A(S.unit);
        z_scale *= totals->z_loss * A(S.unit);
      }
      if constexpr (S.has_grad_output) {
        loss_scale *= grad_output[row_index];
        z_scale *= grad_output[row_index];
      }
      Wide of_p = (hit + spread * Wide(smooth.second)) * loss_scale;
      if constexpr (S.z_loss) of_p += Wide(2) * Wide(lse_square_scale) * Wide(lse) * z_scale;
      const RowGradient<A> c = {stats.max, A(quotient<true>(of_p, Wide(stats.sum))),
                                A(spread * loss_scale), A(hit * loss_scale)};
      row.store(dx, [&](int column, const Pack<A>& z) {
        return map([&](A one, A w) { return gradient_at(one, w, A(0), c); }, z, weights(column));
      });
      // Stored twice, by one thread: cheaper than a look for the label in every pack.
      if (row.owns(y)) dx[y] = narrow<T>(gradient_at(x_of_label, weight, -c.at_label, c));
    }
    if constexpr (S.with_loss) {
      if (row.leads()) {
        A entropy = A(hit) * ((stats.max - score) + stats.log_sum);
        if constexpr (S.smoothing)
          entropy += A(spread) * (smooth.second * stats.log_sum - smooth.first);
        A square = 0;
        if constexpr (S.z_loss) square = A(factor) * (A(lse_square_scale) * lse * lse);
        put_loss(row_index, A(factor) * entropy, square);
      }
    }
  }

  // An ignored row is not read, so it may hold anything.
  LIGER_DEVICE void without_label(long long row_index, long long label, const Row& row,
                                  T* dx) const {
    if constexpr (S.with_gradient) row.fill(dx, A(0));
    if (!row.leads()) return;
    if constexpr (S.accuracy) predicted[row_index] = -1;
    if constexpr (S.with_loss) {
      const bool ignored = label == ignore_index;
      put_loss(row_index, ignored ? A(0) : A(bits_as<float>(0x7fc00000u)), A(0));
      if (!ignored) record_fault(fault, first_row + row_index, label, S.classes);
    }
  }

  LIGER_DEVICE void put_loss(long long row_index, A entropy, A square) const {
    loss[row_index] = S.joined ? entropy + square : entropy;
    z_loss[row_index] = square;
  }

  LIGER_DEVICE Stats stats_of(const Row& row, long long row_index) const {
    constexpr bool in_one_reading = !S.held && !exact && !on_host;
    MaxAndSum<A> stats;
    if constexpr (S.accuracy) {
      const auto best = row.template combined<Best<A>>(
          [](int column, const Pack<A>& x) {
            Best<A> of_pack;
            LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
              of_pack = MergeBest{}(of_pack, Best<A>{x.v[i], column + i});
            }
            return of_pack;
          },
          MergeBest{}, Best<A>{});
      // A row without any number, all NaN, has no largest value: column 0 stands for it.
      if (row.leads()) predicted[row_index] = inside(best.column) ? best.column : 0;
      stats.max = capped(best.value);
    } else if constexpr (!in_one_reading) {
      stats.max = capped(row.largest());
    }
    if constexpr (in_one_reading) {
      stats = row.template combined<MaxAndSum<A>>(
          [this](int column, const Pack<A>& x) { return max_and_sum<exact>(scores(column, x)); },
          MergeMaxAndSum<exact>{}, MaxAndSum<A>{});
    } else {
      // Without rescaling no digit is lost on the way, and on the host both loops are vector code.
      const A max = finite(stats.max);
      stats.sum = row.sum(false, [this, max](int column, const Pack<A>& x) {
        return map([max](A z) { return probability<exact>(z - max); }, scores(column, x));
      });
    }
    return {finite(stats.max), stats.sum, logarithm(stats.sum)};
  }

  LIGER_DEVICE Two<A> smooth_of(const Row& row, A max) const {
    // Distances from the maximum, so that an offset common to a row costs no digits.
    const A distances = row.sum(true, [this, max](int column, const Pack<A>& x) {
      return present<S.classes>(column, weights(column) * (scores(column, x) + (-max)), A(0));
    });
    if constexpr (S.has_weight) {
      return {distances, row.sum(true, [this](int column, const Pack<A>&) {
                return present<S.classes>(column, weights(column), A(0));
              })};
    } else {
      return {distances, A(S.classes)};
    }
  }

  // Of the classes from `column` on.
  LIGER_DEVICE Pack<A> weights(int column) const {
    if constexpr (!S.has_weight) {
      return filled(A(1));
    } else if constexpr (S.align_bytes > 0) {
      return load_pack<S.classes, 4>(class_weight, column / pack_size);
    } else {
      Pack<A> result;
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        result.v[i] = inside(column + i) ? class_weight[column + i] : A(0);
      }
      return result;
    }
  }

  LIGER_DEVICE A gradient_at(A x, A weight, A at_label, const RowGradient<A>& c) const {
    return gradient_of_logit<exact, S.softcap, S.smoothing>(x, weight, at_label, c, softcap);
  }
};

template <CrossEntropyRowsSpec S>
constexpr int cluster_of<CrossEntropyRows<S>> = S.cluster;
template <CrossEntropyRowsSpec S>
constexpr int resident_of<CrossEntropyRows<S>> = S.kept > 0 ? 768 / S.threads : 1;

struct CrossEntropyMeanSpec {
  Dtype arithmetic;
  bool accuracy;
  int threads;
};

// Adds the rows' losses, in the order of the rows alone, and scales them. One block.
template <CrossEntropyMeanSpec S>
struct CrossEntropyMean {
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  static constexpr int owned = row_accumulators / S.threads;
  using A = Type<S.arithmetic>;

  const A* row_loss;
  const A* row_z_loss;
  const long long* predicted;
  const long long* target;
  const LossTotals<A>* totals;
  A* loss;
  A* z_loss;
  A* token_accuracy;
  long long rows;
  long long ignore_index;

  LIGER_DEVICE void operator()(long long) const {
    Two<A> sums[owned];
    int hits = 0;
    LIGER_UNROLL for (int index = 0; index < owned; ++index) {
      LIGER_UNROLL_BY(8)
      for (long long row = index * S.threads + thread_index(); row < rows;
           row += row_accumulators) {
        sums[index] = sums[index] + Two<A>{row_loss[row], row_z_loss[row]};
        if constexpr (S.accuracy) {
          hits += target[row] != ignore_index && predicted[row] == target[row];
        }
      }
    }
    const auto both =
        across_accumulators<row_accumulators, S.threads, 1, owned, true>(sums, Add{}, Two<A>{}, 0);
    if constexpr (S.accuracy) {
      const A right = A(across_threads<S.threads, 1>(hits, Add{}));
      if (thread_index() == 0) *token_accuracy = right * totals->share;
    }
    if (thread_index() != 0) return;
    const A z = both.second * totals->z_loss;
    *z_loss = z;
    *loss = both.first * totals->loss + z;
  }
};

struct CrossEntropyAtOnceSpec {
  CrossEntropyTotalsSpec count;
  CrossEntropyRowsSpec each;
  CrossEntropyMeanSpec sum;
  int threads;  // tuned
  int cluster;  // tuned
};

// The three in one launch, for few short rows, whose time is that of the launches. One cluster, so
// that its barriers stand between the three.
template <CrossEntropyAtOnceSpec S>
struct CrossEntropyAtOnce {
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  static_assert(S.count.threads == S.threads && S.sum.threads == S.threads &&
                    S.each.threads * S.each.rows == S.threads && !S.each.held,
                "the three share the threads of a block");

  CrossEntropyTotals<S.count> count;
  CrossEntropyRows<S.each> each;
  CrossEntropyMean<S.sum> sum;

  LIGER_DEVICE void operator()(long long rank) const {
    if (rank == 0) count(0);
    cluster_barrier<S.cluster>();
    for (long long block = rank; block * S.each.rows < each.rows; block += S.cluster) each(block);
    cluster_barrier<S.cluster>();
    if (rank == 0) sum(0);
  }
};

template <CrossEntropyAtOnceSpec S>
constexpr int cluster_of<CrossEntropyAtOnce<S>> = S.cluster;

}  // namespace liger
