// Mixtures of a token's residual streams: of x[0..N) and, where there is one, a layer's output f
//   y[o] = sum of h[o][i] * x[i] over i + g[o] * f.
#pragma once
#include "device/row_sums.h"

namespace liger {

struct MixStreamsForwardSpec {
  Dtype x;
  Dtype f;
  bool has_f;
  int streams;  // N
  int mixtures;
  int channels;  // exact length of a stream
  int align_bytes;
  int threads;  // tuned; of one token
  int rows;     // tuned; tokens of one block
};

template <MixStreamsForwardSpec S>
struct MixStreamsForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.channels, S.threads, S.rows>;

  const Type<S.x>* x;
  const Type<S.f>* f;
  const A* h;  // [tokens][mixtures][streams]
  const A* g;  // [tokens][mixtures]
  Type<S.x>* y;
  long long tokens;
  long long x_token_stride;
  long long x_stride;
  long long f_stride;

  // A mixture before the layer begins at the last token, where the products of its factors ended;
  // one after it at the first, where that one did; and a backward where its forward ended.
  LIGER_DEVICE void operator()(long long block) const {
    const auto one_token = [&](long long token, int thread, bool active) {
      if (!active) return;
      A shares[S.mixtures][S.streams];
      A of_f[S.mixtures];
      LIGER_UNROLL for (int o = 0; o < S.mixtures; ++o) {
        LIGER_UNROLL for (int i = 0; i < S.streams; ++i) {
          shares[o][i] = h[(token * S.mixtures + o) * S.streams + i];
        }
        of_f[o] = S.has_f ? g[token * S.mixtures + o] : A(0);
      }
      Row::each(thread, [&](int, int pack) {
        Pack<A> states[S.streams];
        LIGER_UNROLL for (int i = 0; i < S.streams; ++i) {
          states[i] =
              load_pack<S.channels, S.align_bytes>(x + token * x_token_stride + i * x_stride, pack);
        }
        auto out = filled(A(0));
        if constexpr (S.has_f)
          out = load_pack<S.channels, S.align_bytes>(f + token * f_stride, pack);
        LIGER_UNROLL for (int o = 0; o < S.mixtures; ++o) {
          auto mixed = out * of_f[o];
          LIGER_UNROLL for (int i = 0; i < S.streams; ++i) {
            mixed = fused(states[i], filled(shares[o][i]), mixed);
          }
          store_pack<S.channels, S.align_bytes>(y + (token * S.mixtures + o) * S.channels, pack,
                                                mixed);
        }
      });
    };
    if constexpr (S.has_f) {
      each_row<S.threads, S.rows>(block, tokens, one_token);
    } else {
      each_row_from_the_end<S.threads, S.rows>(block, tokens, one_token);
    }
  }
};

struct MixStreamsBackwardSpec {
  Dtype x;
  Dtype f;
  bool has_f;
  bool want_dx;
  bool want_df;
  bool want_sums;  // those of the factors
  int streams;
  int mixtures;
  int channels;
  int align_bytes;
  bool hold;    // a thread's share of all streams fits in registers
  int threads;  // tuned; of one token
  int rows;     // tuned; tokens of one block
};

// dx[i] = sum of h[o][i] * dy[o] over o, df = sum of g[o] * dy[o]; over channels dh[o][i] = sum of
// dy[o] * x[i] and dg[o] = sum of dy[o] * f.
template <MixStreamsBackwardSpec S>
struct MixStreamsBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.channels, S.threads, S.rows, S.hold>;
  template <class T>
  using Share = RowShare<Row, S.channels, S.align_bytes, S.hold, T>;
  static constexpr int factors = S.streams + (S.has_f ? 1 : 0);  // of one mixture
  // Mixtures whose sums are made at once: as many as registers have room for.
  static constexpr int at_once = factors * S.mixtures <= 24 ? S.mixtures : 1;

  const Type<S.x>* dy;
  const Type<S.x>* x;
  const Type<S.f>* f;
  const A* h;
  const A* g;
  Type<S.x>* dx;
  Type<S.f>* df;
  A* dh;
  A* dg;
  long long tokens;
  long long dy_token_stride;
  long long dy_stride;
  long long x_token_stride;
  long long x_stride;
  long long f_stride;

  LIGER_DEVICE void operator()(long long block) const {
    const auto one_token = [&](long long token, int thread, bool active) {
      // An array's members are made one by one: a share reads when it is made.
      const auto states = shares<S.streams>(x + token * x_token_stride, x_stride, thread);
      const auto slopes = shares<S.mixtures>(dy + token * dy_token_stride, dy_stride, thread);
      const Share<Type<S.f>> layer(f + token * f_stride, thread);
      if constexpr (S.want_dx || S.want_df) {
        if (active) gradients(token, thread, slopes);
      }
      if constexpr (S.want_sums) {
        LIGER_UNROLL_BY(1) for (int first = 0; first < S.mixtures; first += at_once) {
          sums(token, thread, active, first, states, slopes, layer);
        }
      }
    };
    if constexpr (S.has_f) {
      each_row_from_the_end<S.threads, S.rows>(block, tokens, one_token);
    } else {
      each_row<S.threads, S.rows>(block, tokens, one_token);
    }
  }

 private:
  template <int Count>
  struct Shares {
    RawPack<Type<S.x>> packs[S.hold ? Count : 1][S.hold ? Row::slots : 1];
    const Type<S.x>* rows;
    long long stride;
    LIGER_DEVICE Pack<A> at(int which, int slot, int pack) const {
      if constexpr (S.hold) return widened(packs[which][slot]);
      return load_pack<S.channels, S.align_bytes>(rows + which * stride, pack);
    }
  };
  template <int Count>
  LIGER_DEVICE Shares<Count> shares(const Type<S.x>* rows, long long stride, int thread) const {
    Shares<Count> result;
    result.rows = rows;
    result.stride = stride;
    if constexpr (S.hold) {
      LIGER_UNROLL for (int which = 0; which < Count; ++which) {
        Row::each(thread, [&](int slot, int pack) {
          result.packs[which][slot] =
              load_raw_pack<S.channels, S.align_bytes>(rows + which * stride, pack);
        });
      }
    }
    return result;
  }

  LIGER_DEVICE void gradients(long long token, int thread, const Shares<S.mixtures>& slopes) const {
    Row::each(thread, [&](int slot, int pack) {
      Pack<A> of_mixtures[S.mixtures];
      LIGER_UNROLL for (int o = 0; o < S.mixtures; ++o) of_mixtures[o] = slopes.at(o, slot, pack);
      if constexpr (S.want_dx) {
        LIGER_UNROLL for (int i = 0; i < S.streams; ++i) {
          auto sum = filled(A(0));
          LIGER_UNROLL for (int o = 0; o < S.mixtures; ++o) {
            sum = fused(of_mixtures[o], filled(h[(token * S.mixtures + o) * S.streams + i]), sum);
          }
          store_pack<S.channels, S.align_bytes>(dx + (token * S.streams + i) * S.channels, pack,
                                                sum);
        }
      }
      if constexpr (S.want_df) {
        auto sum = filled(A(0));
        LIGER_UNROLL for (int o = 0; o < S.mixtures; ++o) {
          sum = fused(of_mixtures[o], filled(g[token * S.mixtures + o]), sum);
        }
        store_pack<S.channels, S.align_bytes>(df + token * S.channels, pack, sum);
      }
    });
  }

  LIGER_DEVICE void sums(long long token, int thread, bool active, int first,
                         const Shares<S.streams>& states, const Shares<S.mixtures>& slopes,
                         const Share<Type<S.f>>& layer) const {
    using Sums = RowSums<Row, S.threads, S.rows, at_once * factors, A>;
    using Products = typename Sums::Products;
    Sums made;
    made.add_products(thread, [&](int slot, int pack, Products* sum) {
      Pack<A> of_factors[factors];
      LIGER_UNROLL for (int i = 0; i < S.streams; ++i) of_factors[i] = states.at(i, slot, pack);
      if constexpr (S.has_f) of_factors[S.streams] = layer.at(slot, pack);
      LIGER_UNROLL for (int o = 0; o < at_once; ++o) {
        const auto slope = slopes.at(first + o, slot, pack);
        LIGER_UNROLL for (int i = 0; i < factors; ++i) sum[o * factors + i].add(slope,
                                                                                of_factors[i]);
      }
    });
    const auto of_row = made.across_row(thread);
    if (!active || thread != 0) return;
    LIGER_UNROLL for (int o = 0; o < at_once; ++o) {
      LIGER_UNROLL for (int i = 0; i < S.streams; ++i) {
        dh[(token * S.mixtures + first + o) * S.streams + i] = of_row.v[o * factors + i];
      }
      if constexpr (S.has_f) {
        dg[token * S.mixtures + first + o] = of_row.v[o * factors + S.streams];
      }
    }
  }
};

}  // namespace liger
