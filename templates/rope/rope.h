// Rotary embedding in the half-split form: with r = rotary / 2, for i < r
//   out[i]     = x[i] * cos[i]         - x[i + r] * sin[i]
//   out[i + r] = x[i + r] * cos[i + r] + x[i] * sin[i + r]
// and columns from `rotary` on are copied. The inverse is the transpose of that map: its gradient.
#pragma once
#include "device/head_strides.h"
#include "device/row.h"

namespace liger {

struct RopeSpec {
  Dtype x;
  Dtype angle;  // of cos and sin
  bool inverse;
  int head_size;
  int rotary;
  int q_heads;
  int k_heads;
  int align_bytes;
  int threads;  // tuned
  int tokens;   // tuned; of one block
  int heads;    // tuned; of one block
};

// Heads of one token in q or in k.
template <class T>
struct RopeHeads {
  const T* from;
  T* to;
  long long from_stride;  // of heads
  long long to_stride;
  int count;
};

// A block turns some heads of a few tokens. A thread has one place in a head and keeps its angles
// for all of the block's heads.
template <RopeSpec S>
struct Rope {
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  static constexpr int half = S.rotary / 2;
  static constexpr int copied = S.head_size - S.rotary;
  // Packs only if both halves and what is copied begin on one; else one element at a time.
  static constexpr bool wide = half % pack_size == 0 && copied % pack_size == 0;
  static constexpr int step = wide ? pack_size : 1;
  static constexpr int q_groups = (S.q_heads + S.heads - 1) / S.heads;
  static constexpr int k_groups = (S.k_heads + S.heads - 1) / S.heads;
  static constexpr bool whole = S.q_heads % S.heads == 0 && S.k_heads % S.heads == 0;
  static constexpr int in_flight = on_host ? 1 : (S.heads < 4 ? S.heads : 4);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Angle = Type<S.angle>;

  const T* q;
  const T* k;
  const Angle* cos;
  const Angle* sin;
  T* q_out;
  T* k_out;
  long long batch;
  long long tokens;
  HeadStrides q_strides;
  HeadStrides k_strides;
  HeadStrides q_out_strides;
  HeadStrides k_out_strides;
  long long cos_strides[2];  // of batch, token
  long long sin_strides[2];

  LIGER_DEVICE void operator()(long long block) const {
    // The groups of a few tokens follow one another, so that their angles stay in the cache. A
    // gradient begins at the end, which the kernel before it wrote last.
    const long long all = batch * tokens;
    const long long tile = block / (q_groups + k_groups);
    const int group = static_cast<int>(block % (q_groups + k_groups));
    const long long first_token =
        (S.inverse ? (all - 1) / S.tokens - tile : tile) * static_cast<long long>(S.tokens);
    each_place<half / step>(first_token, [&](long long b, long long t, int place) {
      turn_heads(heads_of(group, b, t, place * step), b, t, place * step);
    });
    each_place<copied / step>(first_token, [&](long long b, long long t, int place) {
      const auto heads = heads_of(group, b, t, S.rotary + place * step);
      for (int i = 0; i < heads.count; ++i) {
        write(heads.to + i * heads.to_stride, widened(read(heads.from + i * heads.from_stride)));
      }
    });
  }

 private:
  // f(batch, token, place) for the places of the block's tokens.
  template <int Places, class F>
  LIGER_DEVICE void each_place(long long first_token, F&& f) const {
    constexpr bool any_place = Places > 0;
    if constexpr (any_place) {
      for (int i = thread_index(); i < S.tokens * Places; i += block_threads) {
        const long long row = first_token + i / Places;
        if (row < batch * tokens) f(row / tokens, row % tokens, i % Places);
      }
    }
  }

  LIGER_DEVICE RopeHeads<T> heads_of(int group, long long b, long long t, int column) const {
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

  LIGER_DEVICE void turn_heads(const RopeHeads<T>& heads, long long b, long long t,
                               int column) const {
    const Angle* c = cos + b * cos_strides[0] + t * cos_strides[1] + column;
    const Angle* s = sin + b * sin_strides[0] + t * sin_strides[1] + column;
    const Pack<A> c1 = angles(c);
    const Pack<A> c2 = angles(c + half);
    const Pack<A> s1 = angles(s);
    const Pack<A> s2 = angles(s + half);
    const int count = whole ? S.heads : heads.count;
    for (int first = 0; first < count; first += in_flight) {
      RawPack<T> x1[in_flight];
      RawPack<T> x2[in_flight];
      LIGER_UNROLL for (int i = 0; i < in_flight; ++i) {
        if (first + i >= count) continue;
        const T* from = heads.from + (first + i) * heads.from_stride;
        x1[i] = read(from);
        x2[i] = read(from + half);
      }
      LIGER_UNROLL for (int i = 0; i < in_flight; ++i) {
        if (first + i >= count) continue;
        turn(widened(x1[i]), widened(x2[i]), c1, c2, s1, s2,
             heads.to + (first + i) * heads.to_stride);
      }
    }
  }

  LIGER_DEVICE static void turn(const Pack<A>& x1, const Pack<A>& x2, const Pack<A>& c1,
                                const Pack<A>& c2, const Pack<A>& s1, const Pack<A>& s2, T* to) {
    Pack<A> y1;
    Pack<A> y2;
    LIGER_UNROLL for (int i = 0; i < step; ++i) {
      if constexpr (S.inverse) {
        y1.v[i] = fused(x1.v[i], c1.v[i], x2.v[i] * s2.v[i]);
        y2.v[i] = fused(x2.v[i], c2.v[i], -(x1.v[i] * s1.v[i]));
      } else {
        y1.v[i] = fused(x1.v[i], c1.v[i], -(x2.v[i] * s1.v[i]));
        y2.v[i] = fused(x2.v[i], c2.v[i], x1.v[i] * s2.v[i]);
      }
    }
    write(to, y1);
    write(to + half, y2);
  }

  // `step` elements; the rest of the pack is not used.
  template <class U>
  static LIGER_DEVICE RawPack<U> read(const U* from) {
    if constexpr (wide) {
      return load_raw<S.align_bytes>(from);
    } else {
      RawPack<U> result{};
      copy_bytes(result.words, from, sizeof(U));
      return result;
    }
  }
  static LIGER_DEVICE void write(T* to, const Pack<A>& values) {
    if constexpr (wide) {
      store<S.align_bytes>(to, values);
    } else {
      *to = narrow<T>(values.v[0]);
    }
  }
  static LIGER_DEVICE Pack<A> angles(const Angle* from) {
    const auto raw = widened(read(from));
    Pack<A> result;
    LIGER_UNROLL for (int i = 0; i < step; ++i) result.v[i] = A(raw.v[i]);
    return result;
  }
};

}  // namespace liger
