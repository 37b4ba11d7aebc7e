// Rotary embeddings turn the elements of a head in pairs. (a, b) becomes
//   a cos_a - b sin_a,  b cos_b + a sin_b
// and the inverse, which is the gradient, is the transpose of that map:
//   a cos_a + b sin_b,  b cos_b - a sin_a
// Half split, element i is paired with i + rotary / 2; interleaved, 2i with 2i + 1. Columns from
// `rotary` on are copied.
//
// S is the spec of a kernel that has x, inverse, interleaved, head_size, rotary, q_heads, k_heads,
// align_bytes, and the knobs threads of a block, and tokens and heads of a block.
#pragma once
#include "device/head_strides.h"
#include "device/row.h"

namespace liger {

// A thread's place in a head: what is paired with one another, in one pack or in two.
template <auto S>
struct RotaryPlaces {
  static constexpr int half = S.rotary / 2;
  static constexpr int copied = S.head_size - S.rotary;
  static constexpr int packs = S.interleaved ? 1 : 2;
  // Packs only if all parts of a head begin on one; else one pair at a time.
  static constexpr bool wide = S.rotary % (packs * pack_size) == 0 && copied % pack_size == 0;
  static constexpr int step = wide ? pack_size : (S.interleaved ? 2 : 1);
  static constexpr int count = S.rotary / (packs * step);
  static constexpr int copied_step = wide ? pack_size : 1;

  // `step` angles from a row that has one for each column.
  template <class T>
  static LIGER_DEVICE Pack<Arithmetic<S.x>> angles(const T* from) {
    return in_arithmetic(widened(load_raw<S.align_bytes, true, step>(from)));
  }

  // Angles in the arithmetic of what they turn.
  template <class A>
  static LIGER_DEVICE Pack<Arithmetic<S.x>> in_arithmetic(const Pack<A>& angles) {
    Pack<Arithmetic<S.x>> result;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      result.v[i] = static_cast<Arithmetic<S.x>>(angles.v[i]);
    }
    return result;
  }
};

// Heads of one token in q or in k.
template <class T>
struct HeadsOfToken {
  const T* from;
  T* to;
  long long from_stride;  // of heads
  long long to_stride;
  int count;
};

// The heads of q and k, as a member of a kernel. A block turns some heads of a few tokens; a thread
// has one place in a head and keeps its angles for all of the block's heads.
template <auto S>
struct RotaryHeads {
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  static constexpr int q_groups = (S.q_heads + S.heads - 1) / S.heads;
  static constexpr int k_groups = (S.k_heads + S.heads - 1) / S.heads;
  static constexpr bool whole = S.q_heads % S.heads == 0 && S.k_heads % S.heads == 0;
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Places = RotaryPlaces<S>;
  static constexpr int packs = Places::packs;
  static constexpr int loads = 8 / packs;  // heads whose packs fill what may be in flight
  static constexpr int in_flight = on_host ? 1 : (S.heads < loads ? S.heads : loads);

  const T* q;
  const T* k;
  T* q_out;
  T* k_out;
  long long batch;
  long long tokens;
  HeadStrides q_strides;
  HeadStrides k_strides;
  HeadStrides q_out_strides;
  HeadStrides k_out_strides;

  // `row_at(batch, token)` is the row of angles of a token, which has `cos(column)` and
  // `sin(column)`: those of the pack, or pair, that begins at that column.
  template <class RowAt>
  LIGER_DEVICE void turn(long long block, RowAt&& row_at) const {
    // The groups of a few tokens follow one another, so that their angles stay in the cache. A
    // gradient begins at the end, which the kernel before it wrote last.
    const long long all = batch * tokens;
    const long long tile = block / (q_groups + k_groups);
    const int group = static_cast<int>(block % (q_groups + k_groups));
    const long long first_token =
        (S.inverse ? (all - 1) / S.tokens - tile : tile) * static_cast<long long>(S.tokens);
    each_place<Places::count>(first_token, [&](long long b, long long t, int place) {
      const int column = place * Places::step;
      turn_heads(heads_of(group, b, t, column), Turn(row_at(b, t), column));
    });
    constexpr int step = Places::copied_step;
    each_place<Places::copied / step>(first_token, [&](long long b, long long t, int place) {
      const auto heads = heads_of(group, b, t, S.rotary + place * step);
      for (int i = 0; i < heads.count; ++i) {
        write<step>(heads.to + i * heads.to_stride,
                    widened(read<step>(heads.from + i * heads.from_stride)));
      }
    });
  }

 private:
  // y = x * own + partner * across, for what stands at one place.
  struct Turn {
    Pack<A> own[packs];
    Pack<A> across[packs];

    template <class Row>
    LIGER_DEVICE Turn(const Row& row, int column) {
      Pack<A> sin[packs];
      LIGER_UNROLL for (int p = 0; p < packs; ++p) {
        own[p] = row.cos(column + p * Places::half);
        sin[p] = row.sin(column + p * Places::half);
      }
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        if constexpr (packs == 1) {
          const int other = i ^ 1;
          const bool first = i % 2 == 0;
          const A s = sin[0].v[S.inverse ? other : i];
          across[0].v[i] = first == S.inverse ? s : -s;
        } else {
          across[0].v[i] = S.inverse ? sin[1].v[i] : -sin[0].v[i];
          across[1].v[i] = S.inverse ? -sin[0].v[i] : sin[1].v[i];
        }
      }
    }

    LIGER_DEVICE void operator()(const RawPack<T> (&raw)[packs], T* to) const {
      if constexpr (packs == 1) {
        const auto x = widened(raw[0]);
        Pack<A> partner;
        LIGER_UNROLL for (int i = 0; i < pack_size; ++i) partner.v[i] = x.v[i ^ 1];
        write<Places::step>(to, fused(x, own[0], partner * across[0]));
      } else {
        const auto x1 = widened(raw[0]);
        const auto x2 = widened(raw[1]);
        write<Places::step>(to, fused(x1, own[0], x2 * across[0]));
        write<Places::step>(to + Places::half, fused(x2, own[1], x1 * across[1]));
      }
    }
  };

  // f(batch, token, place) for the places of the block's tokens.
  template <int Count, class F>
  LIGER_DEVICE void each_place(long long first_token, F&& f) const {
    constexpr bool any_place = Count > 0;
    if constexpr (any_place) {
      for (int i = thread_index(); i < S.tokens * Count; i += block_threads) {
        const long long row = first_token + i / Count;
        if (row < batch * tokens) f(row / tokens, row % tokens, i % Count);
      }
    }
  }

  LIGER_DEVICE HeadsOfToken<T> heads_of(int group, long long b, long long t, int column) const {
    if (group < q_groups) {
      const int first = group * S.heads;
      return {q + b * q_strides.batch + first * q_strides.head + t * q_strides.token + column,
              q_out + b * q_out_strides.batch + first * q_out_strides.head +
                  t * q_out_strides.token + column,
              q_strides.head, q_out_strides.head, smaller(S.heads, S.q_heads - first)};
    }
    const int first = (group - q_groups) * S.heads;
    return {k + b * k_strides.batch + first * k_strides.head + t * k_strides.token + column,
            k_out + b * k_out_strides.batch + first * k_out_strides.head + t * k_out_strides.token +
                column,
            k_strides.head, k_out_strides.head, smaller(S.heads, S.k_heads - first)};
  }
  static LIGER_DEVICE int smaller(int a, int b) { return a < b ? a : b; }

  LIGER_DEVICE void turn_heads(const HeadsOfToken<T>& heads, const Turn& turn) const {
    const int count = whole ? S.heads : heads.count;
    for (int first = 0; first < count; first += in_flight) {
      RawPack<T> x[in_flight][packs];
      LIGER_UNROLL for (int i = 0; i < in_flight; ++i) {
        if (first + i >= count) continue;
        const T* from = heads.from + (first + i) * heads.from_stride;
        LIGER_UNROLL for (int p = 0; p < packs; ++p) {
          x[i][p] = read<Places::step>(from + p * Places::half);
        }
      }
      LIGER_UNROLL for (int i = 0; i < in_flight; ++i) {
        if (first + i >= count) continue;
        turn(x[i], heads.to + (first + i) * heads.to_stride);
      }
    }
  }

  template <int Count>
  static LIGER_DEVICE RawPack<T> read(const T* from) {
    return load_raw<S.align_bytes, true, Count>(from);
  }
  template <int Count>
  static LIGER_DEVICE void write(T* to, const Pack<A>& values) {
    if constexpr (Count == pack_size) {
      store<S.align_bytes>(to, values);
    } else {
      LIGER_UNROLL for (int i = 0; i < Count; ++i) to[i] = narrow<T>(values.v[i]);
    }
  }
};

}  // namespace liger
