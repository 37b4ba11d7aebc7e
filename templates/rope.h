// Rotary embedding in the half-split form: with r = rotary / 2, for i < r
//   out[i]     = x[i] * cos[i]         - x[i + r] * sin[i]
//   out[i + r] = x[i + r] * cos[i + r] + x[i] * sin[i + r]
// and columns from `rotary` on are copied. The inverse is the transpose of that map: its gradient.
#pragma once
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
  int rows;     // tuned; tokens of one block
};

// One token's part of q or k.
template <class T>
struct RopeHeads {
  const T* from;
  T* to;
  long long from_head_stride;
  long long to_head_stride;
};

template <RopeSpec S>
struct Rope {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr int half = S.rotary / 2;
  // Whole packs only if both halves begin on one; else one element at a time.
  static constexpr bool wide = half % pack_size == 0 && S.rotary % pack_size == 0;
  static constexpr int step = wide ? pack_size : 1;
  static constexpr int turns = half / step;  // pieces of one head's rotary half
  static constexpr int copied = S.head_size - S.rotary;
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
  long long q_strides[3];  // of batch, head, token
  long long k_strides[3];
  long long q_out_strides[3];
  long long k_out_strides[3];
  long long cos_strides[2];  // of batch, token
  long long sin_strides[2];

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, batch * tokens, [&](long long row, int thread, bool active) {
      if (!active) return;
      const long long b = row / tokens;
      const long long t = row % tokens;
      const Angle* c = cos + b * cos_strides[0] + t * cos_strides[1];
      const Angle* s = sin + b * sin_strides[0] + t * sin_strides[1];
      heads<S.q_heads>(
          {q + b * q_strides[0] + t * q_strides[2],
           q_out + b * q_out_strides[0] + t * q_out_strides[2], q_strides[1], q_out_strides[1]},
          c, s, thread);
      heads<S.k_heads>(
          {k + b * k_strides[0] + t * k_strides[2],
           k_out + b * k_out_strides[0] + t * k_out_strides[2], k_strides[1], k_out_strides[1]},
          c, s, thread);
    });
  }

 private:
  template <int Heads>
  LIGER_DEVICE void heads(const RopeHeads<T>& x, const Angle* c, const Angle* s, int thread) const {
    LIGER_UNROLL for (int i = thread; i < Heads * turns; i += S.threads) {
      const int head = i / turns;
      turn(x.from + head * x.from_head_stride, x.to + head * x.to_head_stride, c, s,
           i % turns * step);
    }
    if constexpr (S.head_size != S.rotary) {
      for (int i = thread; i < Heads * copied; i += S.threads) {
        const int head = i / copied;
        const int column = S.rotary + i % copied;
        x.to[head * x.to_head_stride + column] = x.from[head * x.from_head_stride + column];
      }
    }
  }

  LIGER_DEVICE void turn(const T* from, T* to, const Angle* c, const Angle* s, int column) const {
    if constexpr (half % pack_size == 0) {
      const auto x1 = load<S.align_bytes>(from + column);
      const auto x2 = load<S.align_bytes>(from + half + column);
      const auto c1 = angles(c + column);
      const auto c2 = angles(c + half + column);
      const auto s1 = angles(s + column);
      const auto s2 = angles(s + half + column);
      Pack<A> y1;
      Pack<A> y2;
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        turn_one(x1.v[i], x2.v[i], c1.v[i], c2.v[i], s1.v[i], s2.v[i], y1.v[i], y2.v[i]);
      }
      store<S.align_bytes>(to + column, y1);
      store<S.align_bytes>(to + half + column, y2);
    } else {
      A y1;
      A y2;
      turn_one(widen(from[column]), widen(from[half + column]), A(widen(c[column])),
               A(widen(c[half + column])), A(widen(s[column])), A(widen(s[half + column])), y1, y2);
      to[column] = narrow<T>(y1);
      to[half + column] = narrow<T>(y2);
    }
  }

  LIGER_DEVICE Pack<A> angles(const Angle* from) const {
    const auto raw = load<S.align_bytes>(from);
    Pack<A> result;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) result.v[i] = A(raw.v[i]);
    return result;
  }

  static LIGER_DEVICE void turn_one(A x1, A x2, A c1, A c2, A s1, A s2, A& y1, A& y2) {
    if constexpr (S.inverse) {
      y1 = fused(x1, c1, x2 * s2);
      y2 = fused(x2, c2, -(x1 * s1));
    } else {
      y1 = fused(x1, c1, -(x2 * s1));
      y2 = fused(x2, c2, x1 * s2);
    }
  }
};

}  // namespace liger
