// Cross entropy of rows of logits, with its gradient in the same launch.
//   z = softcap * tanh(x / softcap), or x;   p = softmax(z);   lse = log(sum(exp(z)))
//   loss = w[y] (1 - e) (lse - z[y]) + (e / V) sum_c w[c] (lse - z[c])  [scaled by totals.loss]
//        + lambda lse^2                                                  [scaled by totals.z_loss]
#pragma once
#include "device/fault.h"
#include "device/softmax.h"

namespace liger {

// Denominators, and factors made from them, that live on the device: nobody waits for them.
template <class A>
struct LossTotals {
  A loss;    // what a row's cross entropy is multiplied by
  A z_loss;  // what its lse^2 term is multiplied by
  A share;   // 1 / number of rows that count
};

struct CrossEntropyTotalsSpec {
  Dtype arithmetic;
  bool mean;
  bool has_weight;
  bool has_num_items;
  int threads;
};

// Counts the rows that are not ignored, or sums their class weights. One block.
template <CrossEntropyTotalsSpec S>
struct CrossEntropyTotals {
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  static constexpr int lanes = 1024;
  static constexpr int owned = lanes / (on_host ? 1 : S.threads);
  using A = Type<S.arithmetic>;

  const long long* target;
  const A* class_weight;
  const float* num_items;
  LossTotals<A>* totals;
  long long rows;
  long long classes;
  long long ignore_index;

  LIGER_DEVICE void operator()(long long) const {
    // In double: what is lost here is lost in every row.
    Two<double> of_lane[owned];
    LIGER_UNROLL for (int lane = 0; lane < owned; ++lane) {
      for (long long row = lane * S.threads + thread_index(); row < rows; row += lanes) {
        const long long y = target[row];
        if (y == ignore_index) continue;
        const bool known = y >= 0 && y < classes;
        of_lane[lane] = of_lane[lane] + Two<double>{1.0, double(weight_of(y, known))};
      }
    }
    fold<owned>(of_lane, Add{});
    const auto sums = across_threads<S.threads, 1>(of_lane[0], Add{});
    if (thread_index() != 0) return;
    LossTotals<A> result{A(1), A(1), A(1.0 / sums.first)};
    if constexpr (S.mean) {
      result.loss = A(1.0 / sums.second);
      result.z_loss = result.share;
      if constexpr (S.has_num_items) result.loss = result.z_loss = A(1.0 / double(*num_items));
    }
    *totals = result;
  }

 private:
  LIGER_DEVICE A weight_of(long long y, bool known) const {
    if constexpr (S.has_weight) return known ? class_weight[y] : A(0);
    return A(1);
  }
};

struct CrossEntropyRowsSpec {
  Dtype logits;
  int classes;
  int align_bytes;
  bool has_weight;
  bool has_upstream;  // the gradient is multiplied by one factor for each row
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
  int threads;    // tuned
  int rows;       // tuned
};

template <CrossEntropyRowsSpec S>
struct CrossEntropyRows {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static_assert(on_host || S.threads > warp_threads, "a row needs the barriers of its reductions");
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  using Row = RowOf<S.classes, S.threads, S.rows>;
  using Wide = Arithmetic<exact ? Dtype::f64 : Dtype::f32>;

  const T* logits;
  const long long* target;
  const A* class_weight;
  const LossTotals<A>* totals;
  const A* upstream;
  A* loss;    // of each row, unscaled
  A* z_loss;  // of each row, unscaled
  long long* predicted;
  T* dlogits;
  FaultRecord* fault;
  long long rows;
  long long logits_stride;
  long long dlogits_stride;
  long long ignore_index;
  long long first_row;  // of this chunk, for the fault's message
  double label_smoothing;
  double lse_square_scale;
  double softcap;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(
        block, rows, [&](long long row, int thread, bool active) { one_row(row, thread, active); });
  }

 private:
  // dz[c] = of_exp * exp(z[c] - max) - of_weight * w[c] - (c == y ? at_label : 0). Each shifts a
  // whole row, so for exact types they are made in double.
  struct Coefficients {
    A max;
    A of_exp;
    A of_weight;
    A at_label;
    int y;
  };

  LIGER_DEVICE A capped(A x) const {
    if constexpr (S.softcap) {
      return A(softcap) * hyperbolic_tangent<exact>(quotient<true>(x, A(softcap))).value;
    } else {
      return x;
    }
  }

  LIGER_DEVICE Pack<A> scores(const T* row, int pack) const {
    const auto raw =
        load_pack<S.classes, S.align_bytes, !S.in_place>(row, pack, minus_infinity<A>());
    if constexpr (S.softcap) {
      auto result = map([this](A x) { return capped(x); }, raw);
      if (S.classes % pack_size != 0 && pack == S.classes / pack_size) {
        LIGER_UNROLL for (int i = S.classes % pack_size; i < pack_size; ++i) {
          result.v[i] = minus_infinity<A>();
        }
      }
      return result;
    } else {
      return raw;
    }
  }

  LIGER_DEVICE MaxAndSum<A> max_and_sum_of_row(const T* x, int thread) const {
    if constexpr (on_host || exact) {
      // Without rescaling no digit is lost on the way; and on the host both loops become vector
      // code.
      const A max = Row::template combined<A>(
          thread, [&](int, int pack) { return largest(scores(x, pack)); },
          [](A a, A b) { return larger(a, b); }, minus_infinity<A>());
      const A reference = max == minus_infinity<A>() ? A(0) : max;
      const A sum = Row::template combined<A>(thread, [&](int, int pack) {
        return total(
            map([reference](A z) { return exponential<exact>(z - reference); }, scores(x, pack)));
      });
      return {max, sum};
    } else {
      return Row::template combined<MaxAndSum<A>>(
          thread, [&](int, int pack) { return max_and_sum<exact>(scores(x, pack)); },
          MergeMaxAndSum<exact>{});
    }
  }

  LIGER_DEVICE void one_row(long long row, int thread, bool active) const {
    const T* x = logits + row * logits_stride;
    const long long label = target[row];
    const bool counts = label != ignore_index && label >= 0 && label < S.classes;
    const int y = counts ? static_cast<int>(label) : 0;
    // Read before the reductions: their barriers are what keeps it from being overwritten in place.
    const A score = capped(widen(x[y]));
    const auto stats = max_and_sum_of_row(x, thread);
    const A log_sum = logarithm(stats.sum);
    const A lse = stats.max + log_sum;

    Two<A> smooth;  // sum of w z, sum of w
    if constexpr (S.smoothing) {
      smooth = Row::template combined<Two<A>>(thread, [&](int, int pack) {
        // Distances from the maximum, so that an offset common to a row costs no digits.
        const auto z = without_missing<S.classes>(pack, scores(x, pack) + (-stats.max));
        if constexpr (S.has_weight) {
          const auto w = load_pack<S.classes, 4>(class_weight, pack);
          return Two<A>{total(w * z), total(w)};
        } else {
          return Two<A>{total(z), A(0)};
        }
      });
      if constexpr (!S.has_weight) smooth.second = A(S.classes);
    }
    if constexpr (S.accuracy) {
      const auto best = Row::template combined<Best<A>>(
          thread,
          [&](int, int pack) {
            const auto z = scores(x, pack);
            Best<A> of_pack;
            LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
              of_pack = MergeBest{}(of_pack, Best<A>{z.v[i], pack * pack_size + i});
            }
            return of_pack;
          },
          MergeBest{});
      // A row without any number, all NaN, has no largest value: column 0 stands for it.
      const int column = best.column < S.classes ? best.column : 0;
      if (active && thread == 0) predicted[row] = counts ? column : -1;
    }
    if (!active) return;

    A weight = 1;
    if constexpr (S.has_weight) weight = counts ? class_weight[y] : A(0);
    const Wide spread = S.smoothing ? Wide(label_smoothing) * Wide(1.0 / S.classes) : Wide(0);
    const Wide hit = S.smoothing ? Wide(weight) * (Wide(1) - Wide(label_smoothing)) : Wide(weight);
    Wide factor = 1;
    if constexpr (S.token_scaling) {
      factor = quotient<true>(exponential<exact>(Wide(score) - Wide(stats.max)), Wide(stats.sum));
    }

    if constexpr (S.with_gradient) {
      Wide loss_scale = factor;
      Wide z_scale = factor;
      if constexpr (S.scaled) {
        loss_scale *= totals->loss * A(S.unit);
        z_scale *= totals->z_loss * A(S.unit);
      }
      if constexpr (S.has_upstream) {
        loss_scale *= upstream[row];
        z_scale *= upstream[row];
      }
      Wide of_p = (hit + spread * Wide(smooth.second)) * loss_scale;
      if constexpr (S.z_loss) of_p += Wide(2) * Wide(lse_square_scale) * Wide(lse) * z_scale;
      gradient(x, dlogits + row * dlogits_stride,
               {stats.max, A(quotient<true>(of_p, Wide(stats.sum))), A(spread * loss_scale),
                A(hit * loss_scale), y},
               thread, counts);
    }
    if constexpr (S.with_loss) {
      if (thread == 0) {
        A entropy = A(hit) * ((stats.max - score) + log_sum);
        if constexpr (S.smoothing) entropy += A(spread) * (smooth.second * log_sum - smooth.first);
        A square = 0;
        if constexpr (S.z_loss) square = A(lse_square_scale) * lse * lse;
        const bool ignored = label == ignore_index;
        const A nan = A(bits_as<float>(0x7fc00000u));
        const A z = counts ? A(factor) * square : A(0);
        loss[row] = counts ? A(factor) * entropy + (S.joined ? z : A(0)) : (ignored ? A(0) : nan);
        z_loss[row] = z;
        if (!counts && !ignored) record_fault(fault, first_row + row, label, S.classes);
      }
    }
  }

  LIGER_DEVICE void gradient(const T* x, T* dx, const Coefficients& row, int thread,
                             bool counts) const {
    Row::each(thread, [&](int, int pack) {
      auto g = filled(A(0));
      if (counts) {
        const auto raw = load_pack<S.classes, S.align_bytes, !S.in_place>(x, pack, A(0));
        const int label_in_pack = row.y - pack * pack_size;
        Pack<A> w = filled(A(1));
        if constexpr (S.smoothing && S.has_weight) w = load_pack<S.classes, 4>(class_weight, pack);
        LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
          A z = raw.v[i];
          A slope = 1;
          if constexpr (S.softcap) {
            const auto t = hyperbolic_tangent<exact>(quotient<true>(z, A(softcap)));
            z = A(softcap) * t.value;
            slope = t.slope;
          }
          // Not exp(z - lse): the rounding of lse would shift the whole row.
          const A e = exponential<exact>(z - row.max);
          A d = fused(row.of_exp, e, i == label_in_pack ? -row.at_label : A(0));
          if constexpr (S.smoothing) d = fused(-row.of_weight, w.v[i], d);
          g.v[i] = d * slope;
        }
      }
      store_pack<S.classes, S.align_bytes>(dx, pack, g);
    });
  }
};

struct CrossEntropyMeanSpec {
  Dtype arithmetic;
  bool accuracy;
  int threads;
};

// Adds the rows' losses, in the order of the rows alone, and scales them. One block.
template <CrossEntropyMeanSpec S>
struct CrossEntropyMean {
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  static constexpr int lanes = 1024;
  static constexpr int owned = lanes / (on_host ? 1 : S.threads);
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
    A right[owned] = {};
    LIGER_UNROLL for (int lane = 0; lane < owned; ++lane) {
      for (long long row = lane * S.threads + thread_index(); row < rows; row += lanes) {
        sums[lane] = sums[lane] + Two<A>{row_loss[row], row_z_loss[row]};
        if constexpr (S.accuracy) {
          if (target[row] != ignore_index && predicted[row] == target[row]) right[lane] += A(1);
        }
      }
    }
    fold<owned>(sums, Add{});
    const auto both = across_threads<S.threads, 1>(sums[0], Add{});
    if constexpr (S.accuracy) {
      fold<owned>(right, Add{});
      const A hits = across_threads<S.threads, 1>(right[0], Add{});
      if (thread_index() == 0) *token_accuracy = hits * totals->share;
    }
    if (thread_index() != 0) return;
    const A z = both.second * totals->z_loss;
    *z_loss = z;
    *loss = both.first * totals->loss + z;
  }
};

}  // namespace liger
