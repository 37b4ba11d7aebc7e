// Products of a token's streams x[0..K), K = streams * channels, with the K x M matrix phi, and
// their gradients. A task owns 256 columns of one stream and a few of the M outputs: it holds that
// part of phi in registers and walks through tokens, so phi is read once a walk.
#pragma once
#include "device/neighbours.h"
#include "device/row_sums.h"

namespace liger {

constexpr int columns_of_slice = 256;
constexpr int task_threads = on_host ? 1 : 32;
constexpr int packs_of_thread = columns_of_slice / pack_size / task_threads;

struct StreamProductsSpec {
  Dtype x;
  Dtype phi;
  int streams;
  int channels;
  int outputs;  // M
  int at_once;  // outputs of one task
  int groups;   // tasks that share a slice: at_once * groups is M or more
  int align_bytes;
  int rows;  // tuned; tasks of one block
};

// For each token and slice, sums of products with phi and of squares: parts[token][slice][group]
// of 16, of which the last used one is the sum of squares.
template <StreamProductsSpec S>
struct StreamProducts {
  static constexpr int block_threads = threads_of_block(task_threads, S.rows);
  using A = Arithmetic<S.x>;
  static constexpr int slices_of_stream = (S.channels + columns_of_slice - 1) / columns_of_slice;
  static constexpr int slices = slices_of_stream * S.streams;
  static constexpr int part = 16;
  static constexpr int ahead = on_host ? 1 : 4;  // tokens on their way at once
  static_assert(S.at_once < part, "outputs and the sum of squares");

  const Type<S.x>* x;
  const Type<S.phi>* phi;
  A* parts;
  long long tokens;
  long long walk;  // tokens of one task
  long long x_token_stride;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    const long long tasks = (tokens + walk - 1) / walk * slices * S.groups;
    each_row<task_threads, S.rows>(block, tasks, [&](long long task, int lane, bool active) {
      if (active) one_task(task, lane);
    });
  }

 private:
  LIGER_DEVICE void one_task(long long task, int lane) const {
    const int group = static_cast<int>(task % S.groups);
    const int slice = static_cast<int>(task / S.groups % slices);
    const long long first = task / S.groups / slices * walk;
    const long long end = first + walk < tokens ? first + walk : tokens;
    const int stream = slice / slices_of_stream;
    const int first_pack =
        slice % slices_of_stream * (columns_of_slice / pack_size) + (on_host ? 0 : lane);
    const Type<S.x>* const from = x + stream * x_stride;

    Pack<A> weights[S.at_once][packs_of_thread];
    LIGER_UNROLL for (int m = 0; m < S.at_once; ++m) {
      for (int p = 0; p < packs_of_thread; ++p) {
        weights[m][p] = weights_of(stream, first_pack + p, group * S.at_once + m);
      }
    }
    for (long long base = first; base < end; base += ahead) {
      RawPack<Type<S.x>> raw[ahead][packs_of_thread];
      LIGER_UNROLL for (int i = 0; i < ahead; ++i) {
        const long long token = base + i < end ? base + i : end - 1;
        for (int p = 0; p < packs_of_thread; ++p) {
          raw[i][p] = pack_of(from + token * x_token_stride, first_pack + p);
        }
      }
      LIGER_UNROLL for (int i = 0; i < ahead; ++i) {
        if (base + i < end)
          one_token(raw[i], weights, ((base + i) * slices + slice) * S.groups + group, lane);
      }
    }
  }

  LIGER_DEVICE void one_token(const RawPack<Type<S.x>> (&raw)[packs_of_thread],
                              const Pack<A> (&weights)[S.at_once][packs_of_thread], long long place,
                              int lane) const {
    Pack<A> values[packs_of_thread];
    LIGER_UNROLL for (int p = 0; p < packs_of_thread; ++p) values[p] = widened(raw[p]);
    // Sums side by side, so that none waits for itself.
    ProductSum<A> products[S.at_once + 1];
    LIGER_UNROLL for (int p = 0; p < packs_of_thread; ++p) {
      LIGER_UNROLL for (int m = 0; m < S.at_once; ++m) products[m].add(values[p], weights[m][p]);
      products[S.at_once].add(values[p], values[p]);
    }
    A sums[part] = {};
    LIGER_UNROLL for (int m = 0; m <= S.at_once; ++m) sums[m] = products[m].sum();
    A* const to = parts + place * part;
    if constexpr (on_host) {
      for (int m = 0; m <= S.at_once; ++m) to[m] = sums[m];
    } else {
      meet_in_team<team_lanes / 2, part>(sums, Add{});
      if (lane % 2 == 0) to[lane / 2] = sums[0];
    }
  }

  static LIGER_DEVICE RawPack<Type<S.x>> pack_of(const Type<S.x>* row, int pack) {
    if (pack * pack_size < S.channels) return load_raw_pack<S.channels, S.align_bytes>(row, pack);
    return {};
  }

  LIGER_DEVICE Pack<A> weights_of(int stream, int pack, int output) const {
    Pack<A> result = filled(A(0));
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      const int channel = pack * pack_size + i;
      if (channel < S.channels && output < S.outputs) {
        result.v[i] = widen(
            phi[(static_cast<long long>(stream) * S.channels + channel) * S.outputs + output]);
      }
    }
    return result;
  }
};

struct StreamGradientsSpec {
  Dtype x;
  Dtype phi;
  bool has_mixture;  // h_pre[i] * x[i] went into a mixture as well
  bool has_streams;  // and x[i] around the layer
  bool want_dx;
  bool want_dphi;
  int streams;
  int channels;
  int outputs;
  int at_once;  // outputs of one walk through the tokens, a multiple of 8
  int groups;   // walks: at_once * groups is M or more
  int align_bytes;
  int columns;  // of one thread, neighbours in one stream
  int threads;  // of one block
};

// Per token, `factors` has the M gradients of products and zeros up to at_once * groups, then the
// factor of x itself, then h_pre.
//   dx = sum of dz[m] * phi[m] + factor * x + h_pre[stream] * dx_in + dstreams
// and for the tokens of a walk sums of x * dz, in partials[walk][output][K].
template <StreamGradientsSpec S>
struct StreamGradients {
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  static constexpr int threads_of_stream = (S.channels + S.columns - 1) / S.columns;
  static constexpr int blocks_of_stream = (threads_of_stream + block_threads - 1) / block_threads;
  static constexpr long long K = static_cast<long long>(S.streams) * S.channels;
  static constexpr int own_factor = S.at_once * S.groups;
  static constexpr int ahead = on_host ? 1 : 4;  // tokens on their way at once

  const T* dx_in;
  const T* dstreams;
  const T* x;
  const Type<S.phi>* phi;
  const A* factors;
  T* dx;
  A* partials;
  long long tokens;
  long long walk;
  long long factors_stride;
  long long dx_in_stride;
  long long dstreams_token_stride;
  long long dstreams_stride;
  long long x_token_stride;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    const int part = static_cast<int>(block % (blocks_of_stream * S.streams));
    const long long of_walk = block / (blocks_of_stream * S.streams);
    const int stream = part / blocks_of_stream;
    const int first = (part % blocks_of_stream * block_threads + thread_index()) * S.columns;
    if (first >= S.channels) return;
    one_group<true>(of_walk, stream, first, 0);
    if constexpr (S.want_dphi) {
      LIGER_UNROLL_BY(1) for (int group = 1; group < S.groups; ++group) {
        one_group<false>(of_walk, stream, first, group);
      }
    }
  }

 private:
  static LIGER_DEVICE bool inside(int channel) {
    return S.channels % S.columns == 0 || channel < S.channels;
  }
  // Those of one thread. Past the end are zeros.
  static LIGER_DEVICE void load(const T* from, int first, T (&to)[S.columns]) {
    if (S.channels % S.columns == 0 || first + S.columns <= S.channels) {
      load_neighbours<S.align_bytes>(from, to);
    } else {
      LIGER_UNROLL for (int c = 0; c < S.columns; ++c) {
        to[c] = inside(first + c) ? from[c] : narrow<T>(A(0));
      }
    }
  }
  static LIGER_DEVICE void store(T* to, int first, const A (&values)[S.columns]) {
    T narrowed[S.columns];
    LIGER_UNROLL for (int c = 0; c < S.columns; ++c) narrowed[c] = narrow<T>(values[c]);
    if (S.channels % S.columns == 0 || first + S.columns <= S.channels) {
      store_neighbours<S.align_bytes>(to, narrowed);
    } else {
      LIGER_UNROLL for (int c = 0; c < S.columns; ++c) {
        if (inside(first + c)) to[c] = narrowed[c];
      }
    }
  }
  LIGER_DEVICE A weight(int stream, int channel, int output) const {
    if (!inside(channel) || output >= S.outputs) return A(0);
    return widen(phi[(static_cast<long long>(stream) * S.channels + channel) * S.outputs + output]);
  }

  template <bool First>
  LIGER_DEVICE void one_group(long long of_walk, int stream, int first, int group) const {
    constexpr bool makes_dx = First && S.want_dx;
    A weights[S.at_once][S.columns];
    A sums[S.at_once][S.columns];
    LIGER_UNROLL for (int m = 0; m < S.at_once; ++m) {
      LIGER_UNROLL for (int c = 0; c < S.columns; ++c) {
        weights[m][c] = makes_dx ? weight(stream, first + c, m) : A(0);
        sums[m][c] = A(0);
      }
    }
    const long long begin = of_walk * walk;
    const long long end = begin + walk < tokens ? begin + walk : tokens;
    for (long long base = begin; base < end; base += ahead) {
      T values[ahead][S.columns];
      T mixed[ahead][S.columns];
      T around[ahead][S.columns];
      LIGER_UNROLL for (int i = 0; i < ahead; ++i) {
        const long long token = base + i < end ? base + i : end - 1;
        load(x + token * x_token_stride + stream * x_stride + first, first, values[i]);
        if constexpr (makes_dx && S.has_mixture) {
          load(dx_in + token * dx_in_stride + first, first, mixed[i]);
        }
        if constexpr (makes_dx && S.has_streams) {
          load(dstreams + token * dstreams_token_stride + stream * dstreams_stride + first, first,
               around[i]);
        }
      }
      LIGER_UNROLL for (int i = 0; i < ahead; ++i) {
        if (base + i >= end) continue;
        const A* const of_token = factors + (base + i) * factors_stride;
        A state[S.columns];
        A slopes[S.columns];
        LIGER_UNROLL for (int c = 0; c < S.columns; ++c) state[c] = widen(values[i][c]);
        if constexpr (makes_dx) {
          const A own = of_token[own_factor];
          LIGER_UNROLL for (int c = 0; c < S.columns; ++c) slopes[c] = own * state[c];
          if constexpr (S.has_mixture) {
            const A share = of_token[own_factor + 1 + stream];
            LIGER_UNROLL for (int c = 0; c < S.columns; ++c) {
              slopes[c] = fused(share, static_cast<A>(widen(mixed[i][c])), slopes[c]);
            }
          }
          if constexpr (S.has_streams) {
            LIGER_UNROLL for (int c = 0; c < S.columns; ++c) {
              slopes[c] += static_cast<A>(widen(around[i][c]));
            }
          }
        }
        LIGER_UNROLL for (int pack = 0; pack < S.at_once / pack_size; ++pack) {
          const auto dz = liger::load<16>(of_token + group * S.at_once + pack * pack_size);
          LIGER_UNROLL for (int j = 0; j < pack_size; ++j) {
            const int m = pack * pack_size + j;
            LIGER_UNROLL for (int c = 0; c < S.columns; ++c) {
              if constexpr (makes_dx) slopes[c] = fused(dz.v[j], weights[m][c], slopes[c]);
              if constexpr (S.want_dphi) sums[m][c] = fused(dz.v[j], state[c], sums[m][c]);
            }
          }
        }
        if constexpr (makes_dx) {
          for (int output = S.at_once; output < S.outputs; ++output) {
            const A dz = of_token[output];
            LIGER_UNROLL for (int c = 0; c < S.columns; ++c) {
              slopes[c] = fused(dz, weight(stream, first + c, output), slopes[c]);
            }
          }
          store(dx + (base + i) * K + stream * S.channels + first, first, slopes);
        }
      }
    }
    if constexpr (S.want_dphi) {
      LIGER_UNROLL for (int m = 0; m < S.at_once; ++m) {
        const int output = group * S.at_once + m;
        if (output >= S.outputs) continue;
        LIGER_UNROLL for (int c = 0; c < S.columns; ++c) {
          if (!inside(first + c)) continue;
          partials[(of_walk * S.outputs + output) * K + stream * S.channels + first + c] =
              sums[m][c];
        }
      }
    }
  }
};

struct PhiGradientSpec {
  Dtype partial;
  Dtype phi;
  bool by_column;  // partials are [walk][k][m]
  int outputs;
  int threads;
};

// dphi[k][m] = sum of the walks' partials[walk][m][k].
template <PhiGradientSpec S>
struct PhiGradient {
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  using A = Type<S.partial>;

  const A* partials;
  Type<S.phi>* dphi;
  long long walks;
  long long rows;  // K

  LIGER_DEVICE void operator()(long long block) const {
    constexpr int of_block = S.threads;
    for (int i = thread_index(); i < of_block; i += block_threads) {
      const long long at = block * of_block + i;  // [m][k]
      if (at >= rows * S.outputs) return;
      A sum = 0;
      LIGER_UNROLL_BY(8) for (long long walk = 0; walk < walks; ++walk) {
        sum += partials[walk * rows * S.outputs + at];
      }
      const long long to = S.by_column ? at : at % rows * S.outputs + at / rows;
      dphi[to] = narrow<Type<S.phi>>(sum);
    }
  }
};

}  // namespace liger
