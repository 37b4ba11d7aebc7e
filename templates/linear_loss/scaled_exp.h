// Cross entropy of a linear layer without a reading of its logits: the product that makes them
// writes e = exp(z - reference) in their place, and their sums beside. With p = e / sum(e), the
// gradients are products of e whose rows are scaled:
//   dx[t] = (scale / sum(e[t])) (e W)[t],   dW = e^T ((scale / sum(e)) x),   e[t, y] less sum(e[t])
// Bfloat16 has the exponents of float32, so a reference that is near the largest logit will do: the
// label's score, which one dot product a token gives. Where a logit is far above it, the product is
// made again with the largest logit for a reference.
#pragma once
#include "device/fault.h"
#include "device/sm90/tile_product.h"

namespace liger {

struct LinearReferenceSpec {
  int hidden;
  int classes;
  int threads;
  int rows;
};

// The label's score of each token, and the reference, in units of log 2. Tokens without a label get
// one that leaves nothing of any logit.
template <LinearReferenceSpec S>
struct LinearReference {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using Row = RowOf<S.hidden, S.threads, S.rows>;

  const bf16* input;
  const bf16* weight;
  const long long* target;
  float* score;
  float* reference;
  InputFault fault;
  long long rows;
  long long input_stride;
  long long ignore_index;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const long long label = target[row];
      const bool counts = label != ignore_index && label >= 0 && label < S.classes;
      const bf16* const x = input + row * input_stride;
      const bf16* const w = weight + (counts ? label : 0) * S.hidden;
      const float dot = Row::template combined<float>(thread, [&](int, int pack) {
        return total(load_pack<S.hidden, 16>(x, pack) * load_pack<S.hidden, 16>(w, pack));
      });
      if (!active || thread != 0) return;
      score[row] = dot;
      reference[row] = counts ? dot * log2_of_e : -minus_infinity<float>();
      if (!counts && label != ignore_index) record_fault(fault, row, label, S.classes);
    });
  }
};

struct ScaledExpSpec {
  int hidden;
  int classes;
  bool stores;  // wants the exponentials, for a gradient
  TileShape tile;
};

// e [rows, classes], and of each row and tile of columns the sum of e and the largest logit.
template <ScaledExpSpec S>
struct ScaledExp {
  using Product = TileProduct<S.tile, S.classes, S.hidden, S.stores>;
  static constexpr int block_threads = Product::block_threads;

  TensorMap input_map;
  TensorMap weight_map;
  TensorMap exponentials_map;
  const bf16* input;
  const bf16* weight;
  bf16* exponentials;
  long long rows;
  long long blocks;
  long long input_stride;
  long long exponentials_stride;
  const float* reference;
  float* sums;
  float* maxima;
  const long long* wanted;  // null: in any case
  long long sums_stride;

  struct OfTile {
    float reference[TileShare::rows];
    float sum[TileShare::rows];
    float max[TileShare::rows];
  };

  LIGER_DEVICE void operator()(long long block) const {
    if (wanted && *wanted == 0) return;
    const TileMatrices matrices{&input_map, &weight_map,  &exponentials_map,
                                input,      weight,       exponentials,
                                rows,       input_stride, exponentials_stride};
    Product(matrices).each_tile(
        block, blocks, [&](const TileShare& share) { return begin(share); },
        [](OfTile& tile, typename Product::Values& values) { exponentials_of(tile, values); },
        [&](const OfTile& tile, const TileShare& share) { end(tile, share); });
  }

 private:
  LIGER_DEVICE OfTile begin(const TileShare& share) const {
    OfTile tile;
    LIGER_UNROLL for (int i = 0; i < TileShare::rows; ++i) {
      tile.reference[i] = share.row(i) < rows ? reference[share.row(i)] : 0.0f;
      tile.sum[i] = 0.0f;
      tile.max[i] = minus_infinity<float>();
    }
    return tile;
  }

  static LIGER_DEVICE void exponentials_of(OfTile& tile, typename Product::Values& values) {
    LIGER_UNROLL for (int j = 0; j < TileShare::columns; ++j) {
      LIGER_UNROLL for (int i = 0; i < TileShare::rows; ++i) {
        const float z = values[i][j];
        tile.max[i] = Larger{}(tile.max[i], z);
        values[i][j] = power_of_two(fused(z, log2_of_e, -tile.reference[i]));
        tile.sum[i] += values[i][j];
      }
    }
  }

  LIGER_DEVICE void end(const OfTile& tile, const TileShare& share) const {
    LIGER_UNROLL for (int i = 0; i < TileShare::rows; ++i) {
      const float sum = share.across_row(tile.sum[i], Add{});
      const float max = share.across_row(tile.max[i], Larger{});
      if (!share.leads() || share.row(i) >= rows) continue;
      const long long place = share.row(i) * sums_stride + share.tile_column;
      sums[place] = sum;
      maxima[place] = max;
    }
  }
};

template <ScaledExpSpec S>
constexpr int cluster_of<ScaledExp<S>> = tile_cluster;

struct ScaledExpRowsSpec {
  int hidden;
  int classes;
  int tiles;  // of columns, each with its sum
  bool with_gradient;
  bool hold;
  int threads;
  int rows;
};

// Of each token the loss, what scales its row of products, its row of the input so scaled, and the
// label's element of e. Asks for another product where a logit is too far above the reference.
template <ScaledExpRowsSpec S>
struct ScaledExpRows {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using Tiles = RowOf<S.tiles, S.threads, S.rows>;
  using Hidden = RowOf<S.hidden, S.threads, S.rows, S.hold>;
  using Input = RowShare<Hidden, S.hidden, 16, S.hold, bf16>;  // on its way during the sums
  // In units of log 2: e and the products with it stay below 2^127, and what e scales above 2^-127.
  static constexpr float most_above_reference = 80.0f;

  const bf16* input;
  const long long* target;
  const float* score;
  const float* sums;
  const float* maxima;
  const float* loss_scale;
  float* reference;
  bf16* exponentials;
  float* row_loss;
  float* row_z_loss;
  float* factor;
  bf16* scaled_input;
  long long* wanted;  // of the next product
  long long rows;
  long long input_stride;
  long long sums_stride;
  long long exponentials_stride;
  long long ignore_index;
  long long again;  // after that product

  LIGER_DEVICE void operator()(long long block) const {
    if (again && *wanted == 0) return;
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const Input x(input + row * input_stride, thread);
      const Scores scores{score[row], reference[row]};  // before the barriers of the sums
      const auto all = Tiles::template combined<MaxAndSum<float>>(
          thread,
          [&](int, int pack) {
            const long long first = row * sums_stride;
            const auto largest =
                load_pack<S.tiles, 16>(maxima + first, pack, minus_infinity<float>());
            return MaxAndSum<float>{combined(largest, Larger{}),
                                    total(load_pack<S.tiles, 16>(sums + first, pack))};
          },
          MaxAndSumApart{});
      if (active) one_row(row, thread, x, scores, all);
    });
  }

 private:
  struct Scores {
    float of_label;
    float reference;
  };

  LIGER_DEVICE void one_row(long long row, int thread, const Input& x, const Scores& scores,
                            const MaxAndSum<float>& all) const {
    const long long label = target[row];
    const bool ignored = label == ignore_index;
    const bool counts = !ignored && label >= 0 && label < S.classes;
    if constexpr (S.with_gradient) gradient_of_row(row, thread, x, scores, all.sum, label, counts);
    if (thread != 0) return;
    row_z_loss[row] = 0;
    // Where nothing counts, a NaN tells of a label that is none.
    row_loss[row] = ignored ? 0.0f : bits_as<float>(0x7fc00000u);
    if (!counts) return;
    const float loss = fused(scores.reference, log_of_2, logarithm(all.sum)) - scores.of_label;
    row_loss[row] = loss < 0.0f ? 0.0f : loss;  // see gradient_of_row()
    const float highest = all.max * log2_of_e;
    if (!again && highest - scores.reference > most_above_reference) {
      reference[row] = highest;
      *wanted = 1;
    }
  }

  LIGER_DEVICE void gradient_of_row(long long row, int thread, const Input& x, const Scores& scores,
                                    float sum, long long label, bool counts) const {
    bf16* const e = exponentials + row * exponentials_stride;
    float scale = 0;
    if (counts) {
      // The label's element is most of the row. What its rounding takes, the scale gives back, and
      // the rounding falls to the others.
      const float difference =
          power_of_two(fused(scores.of_label, log2_of_e, -scores.reference)) - sum;
      // The sum has the label's own element, of a product that is added up in another order than
      // the score: where there is little else, it may fall short of it by that much.
      const float exact = difference > 0.0f ? 0.0f : difference;
      const bf16 rounded = narrow<bf16>(exact);
      scale = quotient<true>(*loss_scale, sum);
      if (widen(rounded) != 0.0f) scale *= quotient<true>(exact, widen(rounded));
      if (thread == 0) e[label] = rounded;
    } else if (sum != 0.0f) {
      clear(e, thread);
    }
    scale_input(row, thread, x, scale);
    if (thread == 0) factor[row] = scale;
  }

  LIGER_DEVICE void scale_input(long long row, int thread, const Input& x, float scale) const {
    Hidden::each(thread, [&](int slot, int pack) {
      // A row that does not count may hold anything.
      const auto scaled = scale == 0.0f ? filled(0.0f) : x.at(slot, pack) * scale;
      store_pack<S.hidden, 16>(scaled_input + row * S.hidden, pack, scaled);
    });
  }

  // A row of e that has no part in the gradient, but a NaN.
  static LIGER_DEVICE void clear(bf16* e, int thread) {
    for (int column = thread; column < S.classes; column += on_host ? 1 : S.threads) {
      e[column] = narrow<bf16>(0.0f);
    }
  }
};

}  // namespace liger
