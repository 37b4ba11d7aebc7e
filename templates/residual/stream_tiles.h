// What residual/stream_products.h computes, by a warp's matrix units: x in bfloat16, of streams
// that are whole numbers of slices long, and at most 24 outputs. Float32 and f16 are sums of
// bfloat16 numbers, whose products are exact and are added in float32.
//
// A sum over columns may take them in any order, so a lane reads eight neighbours of a row at once:
// with g = lane / 4 and t = lane % 4, of each 32 columns those from 8t on, of tokens g and g + 8.
#pragma once
#include "device/mma.h"
#include "device/pack.h"

namespace liger {

constexpr int tile_tokens = 16;
constexpr int columns_of_lanes = 32;  // that the four lanes of a row read at once
constexpr int most_tiles = 3;         // of eight outputs

// What is read for a token past the end.
LIGER_DEVICE long long or_last(long long token, long long tokens) {
  return token < tokens ? token : tokens - 1;
}

struct StreamProductTilesSpec {
  Dtype x;
  Dtype phi;
  int streams;
  int channels;
  int outputs;
  int at_once;  // outputs of one part
  int groups;
  int columns;  // of a slice
  int threads;  // of one block
};

// The parts of StreamProducts. A block holds phi of one slice and takes every so many tokens, so
// all blocks together go from the first to the last, which the next kernel finds in the L2 cache.
template <StreamProductTilesSpec S>
struct StreamProductTiles {
  static constexpr int block_threads = S.threads;
  static constexpr int blocks_at_once = 4;
  static constexpr int slices_of_stream = S.channels / S.columns;
  static constexpr int slices = slices_of_stream * S.streams;
  static constexpr int part = 16;
  static constexpr int tiles = (S.outputs + 7) / 8;
  static constexpr int sets = S.columns / columns_of_lanes;
  static constexpr int sets_of_piece = 4;
  static constexpr int pieces = sets / sets_of_piece;  // of a slice
  static constexpr int phi_parts = bf16_parts<Type<S.phi>>;
  static_assert(S.channels % S.columns == 0 && tiles <= most_tiles, "sizes of tiles");
  static_assert(pieces % 2 == 0, "two pieces are on their way in turn");

  const Type<S.x>* x;
  const Type<S.phi>* phi;
  float* parts;
  long long tokens;
  long long walks;  // blocks that share the tokens
  long long x_token_stride;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    LIGER_SHARED uint4 weights[phi_parts][sets][tiles][32];
    const int slice = static_cast<int>(block % slices);
    const int stream = slice / slices_of_stream;
    const int column = slice % slices_of_stream * S.columns;
    const int lane = thread_index() % 32;
    const int warp = thread_index() / 32;
    const auto* const from = x + stream * x_stride + column + lane % 4 * pack_size;
    const long long step = walks * (block_threads / 32) * tile_tokens;
    long long base = (block / slices * (block_threads / 32) + warp) * tile_tokens;
    // Two pieces are on their way, at first while phi is put in its place.
    Piece loaded[2];
    load_piece(from, base, 0, lane, loaded[0]);
    load_piece(from, base, 1, lane, loaded[1]);
    LIGER_UNROLL_BY(2) for (int i = thread_index(); i < sets * tiles * 32; i += block_threads) {
      put_weights(weights, stream, column, i);
    }
    barrier();
    LIGER_UNROLL_BY(1) for (; base < tokens; base += step) {
      float sums[tiles][4] = {};
      float squares[2] = {};
      LIGER_UNROLL for (int piece = 0; piece < pieces; ++piece) {
        add_products(weights, loaded[piece % 2], piece, lane, sums, squares);
        const bool is_last = piece + 2 >= pieces;
        load_piece(from, is_last ? base + step : base, (piece + 2) % pieces, lane,
                   loaded[piece % 2]);
      }
      put_sums(sums, squares, base, slice, lane);
    }
  }

 private:
  // Of two tokens, eight apart, a lane's columns.
  struct Piece {
    RawPack<Type<S.x>> raw[2][sets_of_piece];
  };

  LIGER_DEVICE void put_weights(uint4 (&weights)[phi_parts][sets][tiles][32], int stream,
                                int column, int i) const {
    const int lane = i % 32;
    const int tile = i / 32 % tiles;
    const int set = i / 32 / tiles;
    const int output = tile * 8 + lane / 4;
    const long long row = static_cast<long long>(stream) * S.channels + column +
                          set * columns_of_lanes + lane % 4 * pack_size;
    unsigned int words[4][phi_parts];
    LIGER_UNROLL for (int pair = 0; pair < 4; ++pair) {
      float both[2];
      LIGER_UNROLL for (int e = 0; e < 2; ++e) {
        both[e] = output < S.outputs ? widen(phi[(row + 2 * pair + e) * S.outputs + output]) : 0.0f;
      }
      split_into_bf16(both[0], both[1], words[pair]);
    }
    LIGER_UNROLL for (int p = 0; p < phi_parts; ++p) {
      weights[p][set][tile][lane] = {words[0][p], words[1][p], words[2][p], words[3][p]};
    }
  }

  // Of the last token where they are past the end.
  LIGER_DEVICE void load_piece(const Type<S.x>* from, long long base, int piece, int lane,
                               Piece& to) const {
    LIGER_UNROLL for (int half = 0; half < 2; ++half) {
      const long long token = base + lane / 4 + half * 8;
      const auto* const row = from + or_last(token, tokens) * x_token_stride;
      LIGER_UNROLL for (int i = 0; i < sets_of_piece; ++i) {
        to.raw[half][i] = load_raw<16>(row + (piece * sets_of_piece + i) * columns_of_lanes);
      }
    }
  }

  LIGER_DEVICE void add_products(const uint4 (&weights)[phi_parts][sets][tiles][32],
                                 const Piece& loaded, int piece, int lane, float (&sums)[tiles][4],
                                 float (&squares)[2]) const {
    LIGER_UNROLL for (int i = 0; i < sets_of_piece; ++i) {
      const auto& low = loaded.raw[0][i].words;
      const auto& high = loaded.raw[1][i].words;
      const unsigned int left[4] = {low[0], high[0], low[1], high[1]};
      const unsigned int right[4] = {low[2], high[2], low[3], high[3]};
      LIGER_UNROLL for (int p = phi_parts - 1; p >= 0; --p) {
        LIGER_UNROLL for (int tile = 0; tile < tiles; ++tile) {
          const uint4 b = weights[p][piece * sets_of_piece + i][tile][lane];
          multiply_tile(sums[tile], left, b.x, b.y);
          multiply_tile(sums[tile], right, b.z, b.w);
        }
      }
      LIGER_UNROLL for (int half = 0; half < 2; ++half) {
        LIGER_UNROLL for (const unsigned int word : loaded.raw[half][i].words) {
          squares[half] = fused(first_of(word), first_of(word), squares[half]);
          squares[half] = fused(second_of(word), second_of(word), squares[half]);
        }
      }
    }
  }

  LIGER_DEVICE void put_sums(const float (&sums)[tiles][4], float (&squares)[2], long long base,
                             int slice, int lane) const {
    LIGER_UNROLL for (int half = 0; half < 2; ++half) {
      squares[half] += shuffle_xor(squares[half], 1);
      squares[half] += shuffle_xor(squares[half], 2);
      const long long token = base + lane / 4 + half * 8;
      if (token >= tokens) continue;
      float* const to = parts + (token * slices + slice) * S.groups * part;
      LIGER_UNROLL for (int tile = 0; tile < tiles; ++tile) {
        LIGER_UNROLL for (int e = 0; e < 2; ++e) {
          const int output = tile * 8 + lane % 4 * 2 + e;
          if (output < S.outputs) {
            to[output / S.at_once * part + output % S.at_once] = sums[tile][half * 2 + e];
          }
        }
      }
      if (lane % 4 == 0) to[S.at_once] = squares[half];
    }
  }
};

struct StreamGradientTilesSpec {
  Dtype x;
  Dtype phi;
  bool has_mixture;
  bool has_streams;
  bool want_dx;
  bool want_dphi;
  int streams;
  int channels;
  int outputs;
  int padded;   // outputs in a row of factors
  int threads;  // of one block
};

// The gradients of StreamGradients, of 64 columns a warp; partials are [walk][K][output]. A walk
// takes every so many tokens from the last to the first: the last ones are in the L2 cache.
template <StreamGradientTilesSpec S>
struct StreamGradientTiles {
  static constexpr int block_threads = S.threads;
  static constexpr int blocks_at_once = 2;
  static constexpr int warps = block_threads / 32;
  static constexpr int columns = 64;
  static constexpr long long K = static_cast<long long>(S.streams) * S.channels;
  static constexpr int tasks = static_cast<int>(K / columns);
  static constexpr int blocks_of_walk = (tasks + warps - 1) / warps;
  static constexpr int tiles = (S.outputs + 7) / 8;
  static constexpr int sets = columns / columns_of_lanes;
  static constexpr int phi_parts = bf16_parts<Type<S.phi>>;
  static constexpr int dz_parts = bf16_parts<float>;
  static_assert(S.channels % columns == 0 && tiles <= most_tiles, "sizes of tiles");

  const Type<S.x>* dx_in;
  const Type<S.x>* dstreams;
  const Type<S.x>* x;
  const Type<S.phi>* phi;
  const float* factors;
  Type<S.x>* dx;
  float* partials;
  long long tokens;
  long long walks;
  long long factors_stride;
  long long dx_in_stride;
  long long dstreams_token_stride;
  long long dstreams_stride;
  long long x_token_stride;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    LIGER_SHARED unsigned int weights[warps][S.want_dx ? phi_parts : 1][sets * 4][most_tiles][32];
    const int warp = thread_index() / 32;
    const int lane = thread_index() % 32;
    const int task = static_cast<int>(block % blocks_of_walk) * warps + warp;
    const bool has_task = task < tasks;
    const long long of_walk = block / blocks_of_walk;
    const int stream = task * columns / S.channels;
    const int column = task * columns % S.channels + lane % 4 * pack_size;
    const long long last = (tokens - 1) / tile_tokens - of_walk;
    Tile loaded;  // on its way while phi is put in its place
    if (has_task) {
      load_states(stream, column, last * tile_tokens + lane / 4, loaded);
      load_slopes(stream, column, last * tile_tokens + lane / 4, loaded);
      load_factors(stream, last * tile_tokens + lane / 4, lane, loaded);
      if constexpr (S.want_dx) put_weights(weights[warp], task, lane);
    }
    if constexpr (S.want_dx) barrier();
    if (has_task) one_walk(weights[warp], loaded, last, task, stream, column, of_walk, lane);
  }

 private:
  using Weights = unsigned int[S.want_dx ? phi_parts : 1][sets * 4][most_tiles][32];
  using Words = RawPack<Type<S.x>>;
  // Of two tokens, eight apart, a lane's columns.
  struct Tile {
    Words states[2][sets];
    Words mixed[2][sets];       // slopes of the mixture
    Words around[2][sets];      // slopes that came around the layer
    float slopes[2][tiles][2];  // of products
    float own[2];               // factors of states
    float share[2];             // and of mixed
  };

  // Of eight columns 32 * set + 8 * (n / 2) + 2 * pair + n % 2 those words that a product of
  // gradients with them reads: outputs 2t and 2t + 1 of column n = g.
  LIGER_DEVICE void put_weights(Weights& weights, int task, int lane) const {
    const int n = lane / 4;
    LIGER_UNROLL_BY(1) for (int eight = 0; eight < sets * 4; ++eight) {
      const long long row = static_cast<long long>(task) * columns + eight / 4 * columns_of_lanes +
                            n / 2 * 8 + eight % 4 * 2 + n % 2;
      LIGER_UNROLL for (int tile = 0; tile < most_tiles; ++tile) {
        float both[2];
        LIGER_UNROLL for (int e = 0; e < 2; ++e) {
          const int output = tile * 8 + lane % 4 * 2 + e;
          both[e] = output < S.outputs ? widen(phi[row * S.outputs + output]) : 0.0f;
        }
        unsigned int words[phi_parts];
        split_into_bf16(both[0], both[1], words);
        LIGER_UNROLL for (int p = 0; p < phi_parts; ++p) weights[p][eight][tile][lane] = words[p];
      }
    }
  }

  LIGER_DEVICE void one_walk(const Weights& weights, Tile& loaded, long long last, int task,
                             int stream, int column, long long of_walk, int lane) const {
    float sums[sets][2][tiles][4] = {};
    LIGER_UNROLL_BY(1) for (long long at = last; at >= 0; at -= walks) {
      const long long token[2] = {at * tile_tokens + lane / 4, at * tile_tokens + lane / 4 + 8};
      const bool inside[2] = {token[0] < tokens, token[1] < tokens};
      const long long next = at < walks ? token[0] : token[0] - walks * tile_tokens;
      // The gradients of products of these tokens, [part][tile][half]; zeros past the end.
      unsigned int slopes[dz_parts][most_tiles][2];
      LIGER_UNROLL for (int half = 0; half < 2; ++half) {
        LIGER_UNROLL for (int tile = 0; tile < most_tiles; ++tile) {
          float both[2] = {};
          if (tile < tiles && inside[half]) {
            LIGER_UNROLL for (int e = 0; e < 2; ++e) both[e] = loaded.slopes[half][tile][e];
          }
          unsigned int words[dz_parts];
          split_into_bf16(both[0], both[1], words);
          LIGER_UNROLL for (int p = 0; p < dz_parts; ++p) slopes[p][tile][half] = words[p];
        }
      }
      // What the next tile reads is on its way as soon as this one has used what was there.
      if constexpr (S.want_dx) {
        make_dx(weights, loaded, slopes, token, inside, stream, column, lane);
        load_slopes(stream, column, next, loaded);
      }
      load_factors(stream, next, lane, loaded);
      if constexpr (S.want_dphi) add_products(sums, loaded.states, slopes);
      load_states(stream, column, next, loaded);
    }
    if constexpr (S.want_dphi) put_sums(sums, task, of_walk, lane);
  }

  LIGER_DEVICE void load_states(int stream, int column, long long token, Tile& to) const {
    load(x + stream * x_stride + column, x_token_stride, token, to.states);
  }
  LIGER_DEVICE void load_slopes(int stream, int column, long long token, Tile& to) const {
    if constexpr (S.want_dx && S.has_mixture) {
      load(dx_in + column, dx_in_stride, token, to.mixed);
    }
    if constexpr (S.want_dx && S.has_streams) {
      load(dstreams + stream * dstreams_stride + column, dstreams_token_stride, token, to.around);
    }
  }
  LIGER_DEVICE void load_factors(int stream, long long token, int lane, Tile& to) const {
    LIGER_UNROLL for (int half = 0; half < 2; ++half) {
      const float* const of_token = factors + or_last(token + half * 8, tokens) * factors_stride;
      LIGER_UNROLL for (int tile = 0; tile < tiles; ++tile) {
        LIGER_UNROLL for (int e = 0; e < 2; ++e) {
          to.slopes[half][tile][e] = of_token[tile * 8 + lane % 4 * 2 + e];
        }
      }
      if constexpr (S.want_dx) to.own[half] = of_token[S.padded];
      if constexpr (S.want_dx && S.has_mixture) to.share[half] = of_token[S.padded + 1 + stream];
    }
  }
  // Of `token` and the one eight later; of the last one where these are past the end.
  LIGER_DEVICE void load(const Type<S.x>* from, long long stride, long long token,
                         Words (&to)[2][sets]) const {
    LIGER_UNROLL for (int half = 0; half < 2; ++half) {
      const auto* const row = from + or_last(token + half * 8, tokens) * stride;
      LIGER_UNROLL for (int set = 0; set < sets; ++set) {
        to[half][set] = load_raw<16>(row + set * columns_of_lanes);
      }
    }
  }

  LIGER_DEVICE void make_dx(const Weights& weights, const Tile& loaded,
                            const unsigned int (&slopes)[dz_parts][most_tiles][2],
                            const long long (&token)[2], const bool (&inside)[2], int stream,
                            int column, int lane) const {
    LIGER_UNROLL for (int set = 0; set < sets; ++set) {
      Words made[2];
      LIGER_UNROLL for (int pair = 0; pair < 4; ++pair) {
        float products[4] = {};
        // Small products first. Those of less than a float32 has are left out.
        LIGER_UNROLL for (int sum = dz_parts - 1; sum >= 0; --sum) {
          LIGER_UNROLL for (int p = 0; p < phi_parts; ++p) {
            if (sum - p < 0) continue;
            const auto& dz = slopes[sum - p];
            const unsigned int a[4] = {dz[0][0], dz[0][1], dz[1][0], dz[1][1]};
            const auto& b = weights[p][set * 4 + pair];
            multiply_tile(products, a, b[0][lane], b[1][lane]);
            if constexpr (tiles > 2) {
              multiply_half_tile(products, dz[2][0], dz[2][1], b[2][lane]);
            }
          }
        }
        LIGER_UNROLL for (int half = 0; half < 2; ++half) {
          const unsigned int state = loaded.states[half][set].words[pair];
          float first = fused(loaded.own[half], first_of(state), products[half * 2]);
          float second = fused(loaded.own[half], second_of(state), products[half * 2 + 1]);
          if constexpr (S.has_mixture) {
            const unsigned int mix = loaded.mixed[half][set].words[pair];
            first = fused(loaded.share[half], first_of(mix), first);
            second = fused(loaded.share[half], second_of(mix), second);
          }
          if constexpr (S.has_streams) {
            const unsigned int around = loaded.around[half][set].words[pair];
            first += first_of(around);
            second += second_of(around);
          }
          made[half].words[pair] = word_of(narrow<bf16>(first), narrow<bf16>(second));
        }
      }
      LIGER_UNROLL for (int half = 0; half < 2; ++half) {
        if (!inside[half]) continue;
        store_raw<16>(dx + token[half] * K + stream * S.channels + column + set * columns_of_lanes,
                      made[half]);
      }
    }
  }

  LIGER_DEVICE void add_products(float (&sums)[sets][2][tiles][4], const Words (&states)[2][sets],
                                 const unsigned int (&slopes)[dz_parts][most_tiles][2]) const {
    unsigned int turned[dz_parts][tiles][2];
    LIGER_UNROLL for (int p = 0; p < dz_parts; ++p) {
      LIGER_UNROLL for (int tile = 0; tile < tiles; ++tile) {
        LIGER_UNROLL for (int half = 0; half < 2; ++half) {
          turned[p][tile][half] = transposed_tile(slopes[p][tile][half]);
        }
      }
    }
    LIGER_UNROLL for (int set = 0; set < sets; ++set) {
      LIGER_UNROLL for (int two = 0; two < 2; ++two) {
        const auto& low = states[0][set].words;
        const auto& high = states[1][set].words;
        const unsigned int a[4] = {transposed_tile(low[2 * two]), transposed_tile(low[2 * two + 1]),
                                   transposed_tile(high[2 * two]),
                                   transposed_tile(high[2 * two + 1])};
        LIGER_UNROLL for (int p = dz_parts - 1; p >= 0; --p) {
          LIGER_UNROLL for (int tile = 0; tile < tiles; ++tile) {
            multiply_tile(sums[set][two][tile], a, turned[p][tile][0], turned[p][tile][1]);
          }
        }
      }
    }
  }

  LIGER_DEVICE void put_sums(const float (&sums)[sets][2][tiles][4], int task, long long of_walk,
                             int lane) const {
    const int g = lane / 4;
    LIGER_UNROLL for (int set = 0; set < sets; ++set) {
      LIGER_UNROLL for (int two = 0; two < 2; ++two) {
        LIGER_UNROLL for (int odd = 0; odd < 2; ++odd) {
          const long long row = static_cast<long long>(task) * columns + set * columns_of_lanes +
                                g / 2 * 8 + (2 * two + odd) * 2 + g % 2;
          LIGER_UNROLL for (int tile = 0; tile < tiles; ++tile) {
            LIGER_UNROLL for (int e = 0; e < 2; ++e) {
              const int output = tile * 8 + lane % 4 * 2 + e;
              if (output < S.outputs) {
                partials[(of_walk * K + row) * S.outputs + output] =
                    sums[set][two][tile][odd * 2 + e];
              }
            }
          }
        }
      }
    }
  }
};

}  // namespace liger
