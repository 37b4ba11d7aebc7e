// Cross entropy of logits that exist one tile of classes at a time. A first pass over the tiles
// folds each into what is known of its rows, and after the last writes their losses and what their
// gradients are made from; a second pass over the same logits makes the gradients in place. The
// formulas are those of cross_entropy.h.
#pragma once
#include "loss/cross_entropy.h"

namespace liger {

// What is known of a row after some tiles.
template <class Wide>
struct RunningRow {
  Wide largest;    // logit
  Wide sum;        // of exp(z - largest z)
  Wide of_label;   // logit of the label
  Wide distances;  // sum of w (z - largest z)
  Wide weights;    // sum of w
};

// What the kernels of both passes have in common; each has a spec of its own.
template <auto S>
struct TileRow {
  static constexpr bool exact = S.logits == Dtype::f32 || S.logits == Dtype::f64;
  using A = Arithmetic<S.logits>;
  using T = Type<S.logits>;
  // A tile has the kernel's columns in memory, so its rows start at whole packs.
  using Row = StreamedRow<S.columns, S.threads, 16, false, T>;
  static_assert(S.columns % pack_size == 0, "a tile is whole packs wide");

  // `missing` in the columns of the last tile that are no classes: they may hold anything.
  static LIGER_DEVICE Pack<A> present(int column, Pack<A> values, long long columns, A missing) {
    if (column + pack_size > columns) {
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        if (column + i >= columns) values.v[i] = missing;
      }
    }
    return values;
  }

  // The weights of eight classes of a tile, zero for what is none.
  static LIGER_DEVICE Pack<A> weights(const A* of_tile, int column, long long columns) {
    Pack<A> result;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      result.v[i] = column + i < columns ? of_tile[column + i] : A(0);
    }
    return result;
  }
};

struct CrossEntropyAccumulateSpec {
  Dtype logits;
  Dtype running;  // what is known of rows is kept and added up in
  int columns;
  bool has_weight;
  bool has_grad_output;  // the gradient is multiplied by one factor for each row
  bool smoothing;
  bool z_loss;
  bool softcap;
  bool token_scaling;  // loss and gradient are multiplied by p[y], itself without gradient
  bool accuracy;       // wants argmax
  bool with_loss;
  bool scaled;  // the gradient is multiplied by totals
  int unit;     // and by this, so that a small type holds it
  bool joined;  // a row's loss has its z loss in it
  int threads;  // tuned
  int rows;     // tuned
};

template <CrossEntropyAccumulateSpec S>
struct CrossEntropyAccumulate {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static_assert(on_host || S.rows == 1, "a row has its block");
  using Tile = TileRow<S>;
  static constexpr bool exact = Tile::exact;
  using A = typename Tile::A;
  using T = typename Tile::T;
  using Wide = Type<S.running>;
  using Row = typename Tile::Row;

  const T* logits;
  const long long* target;
  const A* class_weight;
  const LossTotals<A>* totals;
  const A* grad_output;
  A* loss;    // of each row, unscaled
  A* z_loss;  // of each row, unscaled
  long long* predicted;
  RunningRow<Wide>* running;
  RowGradient<A>* gradient;
  InputFault fault;
  long long rows;
  long long stride;
  long long first_column;  // class of the tile's first column
  long long columns;       // of the tile, at most S.columns
  long long classes;
  long long ignore_index;
  long long first_row;  // of these rows, for the fault's message
  double label_smoothing;
  double lse_square_scale;
  double softcap;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows,
                                [&](long long row, int thread, bool) { one_row(row, thread); });
  }

 private:
  LIGER_DEVICE bool is_last() const { return first_column + columns == classes; }

  LIGER_DEVICE void one_row(long long row_index, int thread) const {
    const long long label = target[row_index];
    const Row row(logits + row_index * stride, thread);
    if (label == ignore_index || label < 0 || label >= classes) {
      if (row.leads() && is_last()) without_label(row_index, label);
      return;
    }
    const RunningRow<Wide> tile = of_tile(row, row_index, label);
    if (!row.leads()) return;
    const RunningRow<Wide> all = first_column == 0 ? tile : merged(running[row_index], tile);
    if (is_last()) {
      finish(row_index, label, all);
    } else {
      running[row_index] = all;
    }
  }

  LIGER_DEVICE Pack<A> scores(int column, const Pack<A>& x) const {
    return Tile::present(column, map([this](A one) { return capped(one); }, x), columns,
                         minus_infinity<A>());
  }
  LIGER_DEVICE A capped(A x) const { return liger::capped<exact, S.softcap>(x, softcap); }
  // What the sums of exponentials are relative to.
  LIGER_DEVICE Wide reference(Wide largest) const { return Wide(finite(capped(A(largest)))); }

  LIGER_DEVICE RunningRow<Wide> of_tile(const Row& row, long long row_index,
                                        long long label) const {
    constexpr bool in_one_reading = !exact && !on_host && !S.softcap;
    RunningRow<Wide> tile = {};
    const long long y = label - first_column;
    if (y >= 0 && y < columns) tile.of_label = Wide(widen(logits[row_index * stride + y]));
    A largest_x;
    if constexpr (S.accuracy) {
      largest_x = best_of(row, row_index);
    } else if constexpr (!in_one_reading) {
      largest_x = row.combined_elements(
          [this](int column, const Pack<A>& x) {
            return Tile::present(column, x, columns, minus_infinity<A>());
          },
          Larger{}, minus_infinity<A>());
    }
    if constexpr (in_one_reading) {
      const MaxAndSum<A> stats = row.template combined<MaxAndSum<A>>(
          [this](int column, const Pack<A>& x) { return max_and_sum<exact>(scores(column, x)); },
          MergeMaxAndSum<exact>{}, MaxAndSum<A>{});
      largest_x = stats.max;
      tile.sum = Wide(stats.sum);
    } else {
      const A max = A(reference(Wide(largest_x)));
      tile.sum = Wide(row.sum(false, [this, max](int column, const Pack<A>& x) {
        return map([max](A z) { return probability<exact>(z - max); }, scores(column, x));
      }));
    }
    tile.largest = Wide(largest_x);
    if constexpr (S.smoothing) {
      // Distances from the maximum, so that an offset common to a row costs no digits.
      const A max = A(reference(tile.largest));
      const auto both = row.template combined<Two<A>>(
          [this, max](int column, const Pack<A>& x) {
            const Pack<A> w = weights(column);
            const Pack<A> far = w * (scores(column, x) + (-max));
            return Two<A>{total(Tile::present(column, far, columns, A(0))), total(w)};
          },
          Add{}, Two<A>{});
      tile.distances = Wide(both.first);
      tile.weights = Wide(both.second);
    }
    return tile;
  }

  LIGER_DEVICE Pack<A> weights(int column) const {
    if constexpr (S.has_weight) {
      return Tile::weights(class_weight + first_column, column, columns);
    } else {
      return Tile::present(column, filled(A(1)), columns, A(0));
    }
  }

  // The largest logit; notes the first class that has it.
  LIGER_DEVICE A best_of(const Row& row, long long row_index) const {
    const auto best = row.template combined<Best<A>>(
        [this](int column, const Pack<A>& x) {
          const Pack<A> there = Tile::present(column, x, columns, minus_infinity<A>());
          Best<A> of_pack;
          LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
            of_pack = MergeBest{}(of_pack, Best<A>{there.v[i], column + i});
          }
          return of_pack;
        },
        MergeBest{}, Best<A>{});
    if (row.leads()) {
      // A row without any number, all NaN, has no largest value: column 0 stands for it.
      const long long found = best.column < columns ? first_column + best.column : 0;
      if (first_column == 0 || Wide(best.value) > running[row_index].largest) {
        predicted[row_index] = found;
      }
    }
    return best.value;
  }

  LIGER_DEVICE RunningRow<Wide> merged(const RunningRow<Wide>& before,
                                       const RunningRow<Wide>& tile) const {
    const Wide largest = larger(before.largest, tile.largest);
    const Wide max = reference(largest);
    RunningRow<Wide> all = {};
    all.largest = largest;
    all.of_label = before.of_label + tile.of_label;  // zero in all tiles but one
    const Wide to_before = reference(before.largest) - max;
    const Wide to_tile = reference(tile.largest) - max;
    all.sum = rescaled(before.sum, to_before) + rescaled(tile.sum, to_tile);
    if constexpr (S.smoothing) {
      all.distances = (before.distances + to_before * before.weights) +
                      (tile.distances + to_tile * tile.weights);
      all.weights = before.weights + tile.weights;
    }
    return all;
  }

  // A sum of zero comes of nothing but -inf, whose reference may be far above the others'.
  static LIGER_DEVICE Wide rescaled(Wide sum, Wide shift) {
    return sum == Wide(0) ? Wide(0) : sum * exponential<exact>(shift);
  }

  LIGER_DEVICE void finish(long long row_index, long long label,
                           const RunningRow<Wide>& row) const {
    const Wide max = reference(row.largest);
    const Wide score = Wide(capped(A(row.of_label)));
    const Wide log_sum = logarithm(row.sum);
    const Wide lse = max + log_sum;
    const Wide weight = Wide(weight_of(label));
    const Wide smoothing = S.smoothing ? Wide(label_smoothing) : Wide(0);
    const Wide spread = smoothing / Wide(classes);
    const Wide hit = weight * (Wide(1) - smoothing);
    Wide factor = 1;
    if constexpr (S.token_scaling) {
      factor = quotient<true>(exponential<exact>(score - max), row.sum);
    }
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
    Wide of_p = (hit + spread * row.weights) * loss_scale;
    if constexpr (S.z_loss) of_p += Wide(2) * Wide(lse_square_scale) * lse * z_scale;
    gradient[row_index] = {A(max), A(quotient<true>(of_p, row.sum)), A(spread * loss_scale),
                           A(hit * loss_scale)};
    if constexpr (S.with_loss) {
      Wide entropy = hit * ((max - score) + log_sum);
      if constexpr (S.smoothing) entropy += spread * (row.weights * log_sum - row.distances);
      Wide square = 0;
      if constexpr (S.z_loss) square = factor * (Wide(lse_square_scale) * lse * lse);
      put_loss(row_index, A(factor * entropy), A(square));
    }
  }

  LIGER_DEVICE A weight_of(long long label) const {
    if constexpr (S.has_weight) return class_weight[label];
    return A(1);
  }

  LIGER_DEVICE void without_label(long long row_index, long long label) const {
    if constexpr (S.accuracy) predicted[row_index] = -1;
    gradient[row_index] = {A(0), A(0), A(0), A(0)};
    if constexpr (S.with_loss) {
      const bool ignored = label == ignore_index;
      put_loss(row_index, ignored ? A(0) : A(bits_as<float>(0x7fc00000u)), A(0));
      if (!ignored) record_fault(fault, first_row + row_index, label, classes);
    }
  }

  LIGER_DEVICE void put_loss(long long row_index, A entropy, A square) const {
    loss[row_index] = S.joined ? entropy + square : entropy;
    z_loss[row_index] = square;
  }
};

struct CrossEntropyTileGradientSpec {
  Dtype logits;
  int columns;
  bool has_weight;
  bool smoothing;
  bool softcap;
  int threads;  // tuned
  int rows;     // tuned
};

template <CrossEntropyTileGradientSpec S>
struct CrossEntropyTileGradient {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static_assert(on_host || S.rows == 1, "a row has its block");
  using Tile = TileRow<S>;
  static constexpr bool exact = Tile::exact;
  using A = typename Tile::A;
  using T = typename Tile::T;
  using Row = typename Tile::Row;

  T* logits;
  const long long* target;
  const A* class_weight;
  const RowGradient<A>* gradient;
  long long rows;
  long long stride;
  long long first_column;  // class of the tile's first column
  long long columns;       // of the tile, at most S.columns
  long long classes;
  long long ignore_index;
  double softcap;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows,
                                [&](long long row, int thread, bool) { one_row(row, thread); });
  }

 private:
  LIGER_DEVICE void one_row(long long row_index, int thread) const {
    const long long label = target[row_index];
    T* const x = logits + row_index * stride;
    const Row row(x, thread);
    if (label == ignore_index || label < 0 || label >= classes) {
      row.fill(x, A(0));
      return;
    }
    const long long y = label - first_column;
    const bool mine = y >= 0 && y < columns && row.owns(static_cast<int>(y));
    const A of_label = mine ? widen(x[y]) : A(0);
    const RowGradient<A> g = gradient[row_index];
    row.store(x, [&](int column, const Pack<A>& z) {
      return map([&](A one, A w) { return gradient_at(one, w, A(0), g); }, z, weights(column));
    });
    // Stored twice, by one thread: cheaper than a look for the label in every pack.
    if (mine) {
      const A w = weights(static_cast<int>(y) / pack_size * pack_size).v[y % pack_size];
      x[y] = narrow<T>(gradient_at(of_label, w, -g.at_label, g));
    }
  }

  LIGER_DEVICE Pack<A> weights(int column) const {
    if constexpr (S.smoothing && S.has_weight) {
      return Tile::weights(class_weight + first_column, column, columns);
    } else {
      return filled(A(1));
    }
  }

  LIGER_DEVICE A gradient_at(A x, A weight, A at_label, const RowGradient<A>& g) const {
    return gradient_of_logit<exact, S.softcap, S.smoothing>(x, weight, at_label, g, softcap);
  }
};

}  // namespace liger
