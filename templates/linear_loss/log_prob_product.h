// Log-probabilities and entropies of a linear layer without a reading of its logits: the product
// that makes them also makes, of each row and tile of columns, what the row's statistics are made
// of; and with the statistics known, the product that makes them again writes their gradient in
// their place. Formulas: templates/loss/selective_log_softmax.h.
#pragma once
#include "device/sm90/tile_product.h"
#include "loss/selective_log_softmax.h"

namespace liger {

// Of logits z, in units of log 2: the sums of 2^d and of 2^d d, d being (z - max) / temperature.
struct LogProbSums {
  float max = minus_infinity<float>();  // of z
  float sum = 0;
  float weighted = 0;
};
LIGER_DEVICE LogProbSums shuffle_xor(const LogProbSums& value, int mask) {
  return {shuffle_xor(value.max, mask), shuffle_xor(value.sum, mask),
          shuffle_xor(value.weighted, mask)};
}

struct MergeLogProbSums {
  float scale;  // of logits

  LIGER_DEVICE LogProbSums operator()(const LogProbSums& a, const LogProbSums& b) const {
    const float max = Larger{}(a.max, b.max);
    LogProbSums all{max, 0, 0};
    add(all, a);
    add(all, b);
    return all;
  }

  LIGER_DEVICE void add(LogProbSums& all, const LogProbSums& some) const {
    if (some.sum == 0.0f) return;  // nothing, but a NaN is no number
    const float further = (some.max - all.max) * scale;
    const float e = power_of_two(further);
    all.sum = fused(some.sum, e, all.sum);
    all.weighted = fused(fused(some.sum, further, some.weighted), e, all.weighted);
  }
};

struct LogProbProductSpec {
  int hidden;
  int classes;
  bool stores;  // keeps the logits
  bool entropy;
  TileShape tile;
};

template <LogProbProductSpec S>
struct LogProbProduct {
  using Product = TileProduct<S.tile, S.classes, S.hidden, S.stores>;
  static constexpr int block_threads = Product::block_threads;

  TensorMap input_map;
  TensorMap weight_map;
  TensorMap logits_map;
  const bf16* input;
  const bf16* weight;
  bf16* logits;
  long long rows;
  long long blocks;
  long long input_stride;
  long long logits_stride;
  float* maxima;  // [rows, tiles], and so the sums
  float* sums;
  float* weighted;
  long long sums_stride;
  double temperature;

  struct OfTile {
    MergeLogProbSums merge;
    LogProbSums rows[TileShare::rows];
  };

  LIGER_DEVICE void operator()(long long block) const {
    const TileMatrices matrices{&input_map, &weight_map, &logits_map,  input,        weight,
                                logits,     rows,        input_stride, logits_stride};
    const float scale = log2_of_e / static_cast<float>(temperature);
    Product(matrices).each_tile(
        block, blocks,
        [&](const TileShare&) {
          return OfTile{{scale}, {}};
        },
        [](OfTile& tile, typename Product::Values& values) { add(tile, values); },
        [&](const OfTile& tile, const TileShare& share) { end(tile, share); });
  }

 private:
  static LIGER_DEVICE void add(OfTile& tile, typename Product::Values& values) {
    LIGER_UNROLL for (int i = 0; i < TileShare::rows; ++i) {
      LogProbSums part;
      LIGER_UNROLL for (int j = 0; j < TileShare::columns; ++j) {
        // Who reads the logits finds them rounded, and is to find probabilities that add up to 1.
        if constexpr (S.stores) values[i][j] = widen(narrow<bf16>(values[i][j]));
        part.max = Larger{}(part.max, values[i][j]);
      }
      const float scale = tile.merge.scale;
      const float reference = finite(part.max) * scale;
      LIGER_UNROLL for (int j = 0; j < TileShare::columns; ++j) {
        const float d = fused(values[i][j], scale, -reference);
        const float e = power_of_two(d);
        part.sum += e;
        if constexpr (S.entropy) part.weighted += e == 0.0f ? 0.0f : e * d;  // 0 log 0 = 0
      }
      tile.rows[i] = tile.merge(tile.rows[i], part);
    }
  }

  LIGER_DEVICE void end(const OfTile& tile, const TileShare& share) const {
    LIGER_UNROLL for (int i = 0; i < TileShare::rows; ++i) {
      const LogProbSums all = share.across_row(tile.rows[i], tile.merge);
      if (!share.leads() || share.row(i) >= rows) continue;
      const long long place = share.row(i) * sums_stride + share.tile_column;
      maxima[place] = all.max;
      sums[place] = all.sum;
      if constexpr (S.entropy) weighted[place] = all.weighted;
    }
  }
};

template <LogProbProductSpec S>
constexpr int cluster_of<LogProbProduct<S>> = tile_cluster;

struct LogProbTilesSpec {
  int classes;
  int tiles;     // of columns, each with its sums
  bool has_ids;  // else there are statistics alone
  bool entropy;
  bool keeps;   // statistics, for a gradient
  bool stored;  // the logits are, and the id's is read
  int threads;
  int rows;
};

// From the sums of tiles and the id's score the numbers of each row, or its statistics.
template <LogProbTilesSpec S>
struct LogProbTiles {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using Tiles = RowOf<S.tiles, S.threads, S.rows>;

  const long long* ids;
  const float* score;  // null where logits are stored
  const bf16* logits;
  const float* maxima;
  const float* sums;
  const float* weighted;
  float* log_probs;
  float* entropy;
  LogProbStatistics<float>* statistics;
  long long rows;
  long long logits_stride;
  long long sums_stride;
  long long ignore_index;
  double temperature;

  LIGER_DEVICE void operator()(long long block) const {
    const MergeLogProbSums merge{log2_of_e / static_cast<float>(temperature)};
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      const auto all = Tiles::template combined<LogProbSums>(
          thread, [&](int, int pack) { return of_pack(row * sums_stride, pack, merge); }, merge);
      if (active && thread == 0) one_row(row, all, merge.scale);
    });
  }

 private:
  LIGER_DEVICE LogProbSums of_pack(long long first, int pack, const MergeLogProbSums& merge) const {
    const auto max = load_pack<S.tiles, 16>(maxima + first, pack, minus_infinity<float>());
    const auto sum = load_pack<S.tiles, 16>(sums + first, pack);
    const auto mean = S.entropy ? load_pack<S.tiles, 16>(weighted + first, pack) : filled(0.0f);
    LogProbSums all;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      all = merge(all, LogProbSums{max.v[i], sum.v[i], mean.v[i]});
    }
    return all;
  }

  LIGER_DEVICE void one_row(long long row, const LogProbSums& all, float scale) const {
    if constexpr (!S.has_ids) {
      statistics[row] = {finite(all.max), all.sum, 0};
    } else {
      one_id(row, ids[row], all, scale);
    }
  }

  LIGER_DEVICE void one_id(long long row, long long id, const LogProbSums& all, float scale) const {
    if (id == ignore_index || id < 0 || id >= S.classes) {
      // Whoever made the scores has told of an id that is none.
      const float value = id == ignore_index ? 0.0f : bits_as<float>(0x7fc00000u);
      write(row, value, value, {0, 1, 0});
      return;
    }
    const float log_sum = logarithm(all.sum);
    const float mean = S.entropy ? quotient<true>(all.weighted, all.sum) * log_of_2 : 0.0f;
    const float of_id = S.stored ? widen(logits[row * logits_stride + id]) : score[row];
    const float log_prob = fused(of_id - all.max, scale * log_of_2, -log_sum);
    // The sum has the id's own logit, of a product that is added up in another order than the
    // score: where there is little else, it may fall short of it by that much.
    write(row, log_prob > 0.0f ? 0.0f : log_prob, log_sum - mean, {all.max, all.sum, mean});
  }

  LIGER_DEVICE void write(long long row, float log_prob, float of_row,
                          const LogProbStatistics<float>& known) const {
    log_probs[row] = log_prob;
    if constexpr (S.entropy) entropy[row] = of_row;
    if constexpr (S.keeps) statistics[row] = known;
  }
};

struct LogProbProductGradientSpec {
  int hidden;
  int classes;
  bool stores;
  bool entropy;  // a gradient of it arrives
  TileShape tile;
};

template <LogProbProductGradientSpec S>
struct LogProbProductGradient {
  using Product = TileProduct<S.tile, S.classes, S.hidden, S.stores>;
  static constexpr int block_threads = Product::block_threads;

  TensorMap input_map;
  TensorMap weight_map;
  TensorMap dlogits_map;
  const bf16* input;
  const bf16* weight;
  bf16* dlogits;
  long long rows;
  long long blocks;
  long long input_stride;
  long long dlogits_stride;
  const long long* ids;
  const LogProbStatistics<float>* statistics;
  const float* dlog_probs;
  const float* dentropy;
  long long ignore_index;
  double temperature;

  struct OfRow {
    bool counts;
    int column;         // of the id, from the part that is next on
    float reference;    // in units of log 2
    float of_exp;       // -(dlog_prob - dentropy mean) / sum / temperature
    float of_distance;  // -dentropy / sum / temperature, of one in units of log 2
    float of_id;        // dlog_prob / temperature
  };
  struct OfTile {
    float scale;
    OfRow rows[TileShare::rows];
  };

  LIGER_DEVICE void operator()(long long block) const {
    const TileMatrices matrices{&input_map, &weight_map, &dlogits_map, input,         weight,
                                dlogits,    rows,        input_stride, dlogits_stride};
    Product(matrices).each_tile(
        block, blocks, [&](const TileShare& share) { return begin(share); },
        [](OfTile& tile, typename Product::Values& values) { gradient_of(tile, values); },
        [](const OfTile&, const TileShare&) {});
  }

 private:
  LIGER_DEVICE OfTile begin(const TileShare& share) const {
    OfTile tile;
    tile.scale = log2_of_e / static_cast<float>(temperature);
    LIGER_UNROLL for (int i = 0; i < TileShare::rows; ++i) {
      tile.rows[i] = of_row(share.row(i), tile.scale);
      tile.rows[i].column -= share.tile_column * S.tile.columns + share.first_column();
    }
    return tile;
  }

  LIGER_DEVICE OfRow of_row(long long row, float scale) const {
    const long long id = row < rows ? ids[row] : ignore_index;
    OfRow result{};
    result.counts = id != ignore_index && id >= 0 && id < S.classes;
    if (!result.counts) return result;
    const LogProbStatistics<float> known = statistics[row];
    const float unit = quotient<true>(1.0f, static_cast<float>(temperature));
    const float g = dlog_probs[row] * unit;
    const float h = S.entropy ? dentropy[row] * unit : 0.0f;
    result.column = static_cast<int>(id);
    result.reference = known.max * scale;
    result.of_exp = -quotient<true>(g - h * known.mean, known.sum);
    result.of_distance = -quotient<true>(h * log_of_2, known.sum);
    result.of_id = g;
    return result;
  }

  static LIGER_DEVICE void gradient_of(OfTile& tile, typename Product::Values& values) {
    LIGER_UNROLL for (int i = 0; i < TileShare::rows; ++i) {
      OfRow& row = tile.rows[i];
      LIGER_UNROLL for (int j = 0; j < TileShare::columns; ++j) {
        const float d = fused(values[i][j], tile.scale, -row.reference);
        const float e = power_of_two(d);
        const float weight = S.entropy ? fused(row.of_distance, d, row.of_exp) : row.of_exp;
        values[i][j] = weight * e;
      }
      if (row.column >= 0 && row.column < S.tile.columns / Product::parts) {
        LIGER_UNROLL for (int j = 0; j < TileShare::columns; ++j) {
          if (row.column == TileShare::column(j)) values[i][j] += row.of_id;
        }
      }
      row.column -= S.tile.columns / Product::parts;
      // A row that does not count may hold anything.
      if (row.counts) continue;
      LIGER_UNROLL for (int j = 0; j < TileShare::columns; ++j) values[i][j] = 0.0f;
    }
  }
};

template <LogProbProductGradientSpec S>
constexpr int cluster_of<LogProbProductGradient<S>> = tile_cluster;

}  // namespace liger
