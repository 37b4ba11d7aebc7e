// Attention of each token to a window of tokens around it. With w of the window, those of the
// tokens t + (w - kernel_size / 2) * dilation that the sequence has:
//   s[w] = scale * q[t] . k[w]
//   out[t] = sum of softmax(s)[w] * v[w]
// A token's window has every token in whose window it is, so a gradient of a key is a sum over the
// key's own window, and nothing is added by two threads.
#pragma once
#include "device/head_strides.h"
#include "device/softmax.h"

namespace liger {

struct NeighborhoodForwardSpec {
  Dtype x;
  int head_size;
  int kernel_size;
  int dilation;
  int align_bytes;
  int threads;  // tuned
  int tokens;   // tuned; of one block
};

struct NeighborhoodQueryBackwardSpec {
  Dtype x;
  int head_size;
  int kernel_size;
  int dilation;
  bool dq;
  int align_bytes;
  int threads;  // tuned
  int tokens;   // tuned; of one block
};

struct NeighborhoodKeyBackwardSpec {
  Dtype x;
  int head_size;
  int kernel_size;
  int dilation;
  bool dk;
  bool dv;
  int align_bytes;
  int threads;  // tuned
  int tokens;   // tuned; of one block
};

// The lanes that share a token: fixed by the head, as the order of each sum is.
template <int HeadSize>
struct HeadLanes {
  static constexpr int packs = (HeadSize + pack_size - 1) / pack_size;
  static constexpr int lanes =
      on_host ? 1 : (packs < team_lanes ? power_of_two_from(packs) : team_lanes);
  static constexpr int slots = (packs + lanes - 1) / lanes;

  // f(slot, pack) for the packs of this lane.
  template <class F>
  static LIGER_DEVICE void each(int lane, F&& f) {
    LIGER_UNROLL for (int slot = 0; slot < slots; ++slot) {
      const int pack = slot * lanes + lane;
      if (pack < packs) f(slot, pack);
    }
  }
};

// One lane's part of a head.
template <class A, class Lanes>
struct HeadShare {
  Pack<A> packs[Lanes::slots];
};

// What both kernels do with heads, tokens and their windows.
template <auto S>
struct NeighborhoodOf {
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Lanes = HeadLanes<S.head_size>;
  using Share = HeadShare<A, Lanes>;
  static constexpr bool exact = sizeof(T) > 2;
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  static_assert(on_host || S.threads == S.tokens * Lanes::lanes, "a lane of each token a thread");

  static LIGER_DEVICE Share zeros() {
    Share share;
    LIGER_UNROLL for (Pack<A>& pack : share.packs) pack = filled(A(0));
    return share;
  }
  static LIGER_DEVICE Share read(const T* head, int lane) {
    Share share = zeros();
    Lanes::each(lane, [&](int slot, int pack) {
      share.packs[slot] = load_pack<S.head_size, S.align_bytes>(head, pack);
    });
    return share;
  }
  static LIGER_DEVICE void write(T* head, int lane, const Share& share, A factor) {
    Lanes::each(lane, [&](int slot, int pack) {
      store_pack<S.head_size, S.align_bytes>(head, pack, share.packs[slot] * factor);
    });
  }
  // The scalar product of two heads; every lane gets it.
  static LIGER_DEVICE A dot(const Share& a, const Share& b) {
    A sum = 0;
    LIGER_UNROLL for (int slot = 0; slot < Lanes::slots; ++slot) {
      sum = sum + total(a.packs[slot] * b.packs[slot]);
    }
    return meet_by_shuffles<Lanes::lanes>(sum, Add{});
  }
  static LIGER_DEVICE void add_product(Share& sum, const Share& a, A factor) {
    LIGER_UNROLL for (int slot = 0; slot < Lanes::slots; ++slot) {
      sum.packs[slot] = fused(a.packs[slot], filled(factor), sum.packs[slot]);
    }
  }

  // f(batch, head, token, lane, active) for the tokens of a block. A token past the end goes along
  // inactive, because shuffles are for all lanes.
  template <class F>
  static LIGER_DEVICE void each_token(long long block, long long heads, long long tokens, F&& f) {
    const long long tiles = (tokens + S.tokens - 1) / S.tokens;
    const long long head = block / tiles;
    const long long first = block % tiles * S.tokens;
    const int count = on_host ? S.tokens : 1;
    for (int i = 0; i < count; ++i) {
      const long long token = first + (on_host ? i : thread_index() / Lanes::lanes);
      const bool active = token < tokens;
      if (on_host && !active) return;
      f(head / heads, head % heads, active ? token : tokens - 1, thread_index() % Lanes::lanes,
        active);
    }
  }

  // f(place, neighbour, there) for the places of the token's window; where the sequence has no such
  // token, the token itself stands in.
  template <bool Unrolled, class F>
  static LIGER_DEVICE void each_neighbour(long long token, long long tokens, F&& f) {
    constexpr int at_once = Unrolled || S.kernel_size < 4 ? S.kernel_size : 4;
    LIGER_UNROLL_BY(at_once) for (int place = 0; place < S.kernel_size; ++place) {
      const long long at = token + static_cast<long long>(place - S.kernel_size / 2) * S.dilation;
      const bool there = at >= 0 && at < tokens;
      f(place, there ? at : token, there);
    }
  }
};

template <class T>
LIGER_DEVICE T* head_at(T* from, const HeadStrides& strides, long long batch, long long head,
                        long long token) {
  return from + batch * strides.batch + head * strides.head + token * strides.token;
}

// largest[batch, heads, tokens] is the largest score of the window and weight the sum of exp(s -
// largest): their logarithm in one number would lose what large scores differ by.
template <NeighborhoodForwardSpec S>
struct NeighborhoodForward {
  using Of = NeighborhoodOf<S>;
  using A = typename Of::A;
  using T = typename Of::T;
  static constexpr int block_threads = Of::block_threads;

  const T* q;
  const T* k;
  const T* v;
  T* out;
  A* largest;
  A* weight;
  long long heads;
  long long tokens;
  double scale;
  HeadStrides q_strides;
  HeadStrides k_strides;
  HeadStrides v_strides;
  HeadStrides out_strides;

  LIGER_DEVICE void operator()(long long block) const {
    Of::each_token(
        block, heads, tokens, [&](long long b, long long h, long long t, int lane, bool active) {
          const auto query = Of::read(head_at(q, q_strides, b, h, t), lane);
          auto sum = Of::zeros();
          A top = minus_infinity<A>();
          A whole = 0;
          Of::template each_neighbour<false>(t, tokens, [&](int, long long at, bool there) {
            const auto key = Of::read(head_at(k, k_strides, b, h, at), lane);
            const auto value = Of::read(head_at(v, v_strides, b, h, at), lane);
            const A made = Of::dot(query, key) * A(scale);
            const A score = there ? made : minus_infinity<A>();
            const A next = larger(top, score);
            const A kept = probability<Of::exact>(top - finite(next));
            const A p = probability<Of::exact>(score - finite(next));
            whole = fused(whole, kept, p);
            LIGER_UNROLL for (auto& pack : sum.packs) pack = pack * kept;
            // An infinity of a token that is not there would make a NaN of its nothing.
            if (there) Of::add_product(sum, value, p);
            top = next;
          });
          if (!active) return;
          Of::write(head_at(out, out_strides, b, h, t), lane, sum, A(1) / whole);
          if (lane != 0) return;
          const long long place = (b * heads + h) * tokens + t;
          largest[place] = finite(top);
          weight[place] = whole;
        });
  }
};

// With p = exp(s - largest[t]) / weight[t] and own[t] = sum of p * (dout[t] . v[w]):
//   ds[w] = p * (dout[t] . v[w] - own[t]),  dq[t] = scale * sum of ds[w] * k[w]
template <NeighborhoodQueryBackwardSpec S>
struct NeighborhoodQueryBackward {
  using Of = NeighborhoodOf<S>;
  using A = typename Of::A;
  using T = typename Of::T;
  static constexpr int block_threads = Of::block_threads;
  // Windows that registers hold are scored once.
  static constexpr bool held = S.kernel_size <= 16;

  const T* dout;
  const T* q;
  const T* k;
  const T* v;
  const A* largest;
  const A* weight;
  A* own;
  T* dq;
  long long heads;
  long long tokens;
  double scale;
  HeadStrides dout_strides;
  HeadStrides q_strides;
  HeadStrides k_strides;
  HeadStrides v_strides;
  HeadStrides dq_strides;

  LIGER_DEVICE void operator()(long long block) const {
    Of::each_token(
        block, heads, tokens, [&](long long b, long long h, long long t, int lane, bool active) {
          const auto query = Of::read(head_at(q, q_strides, b, h, t), lane);
          const auto upstream = Of::read(head_at(dout, dout_strides, b, h, t), lane);
          const long long own_place = (b * heads + h) * tokens + t;
          const A top = largest[own_place];
          const A factor = A(1) / weight[own_place];
          const auto key_of = [&](long long w) {
            return Of::read(head_at(k, k_strides, b, h, w), lane);
          };
          const auto scored = [&](long long w, bool there) {
            const A p = probability<Of::exact>(Of::dot(query, key_of(w)) * A(scale) - top) * factor;
            const A dp = Of::dot(upstream, Of::read(head_at(v, v_strides, b, h, w), lane));
            return Two<A>{there ? p : A(0), there ? dp : A(0)};
          };
          Two<A> window[held ? S.kernel_size : 1];
          A sum = 0;
          Of::template each_neighbour<held>(t, tokens, [&](int place, long long w, bool there) {
            const Two<A> one = scored(w, there);
            sum = fused(one.first, one.second, sum);
            if constexpr (held) window[place] = one;
          });
          if constexpr (S.dq) {
            auto gradient = Of::zeros();
            Of::template each_neighbour<held>(t, tokens, [&](int place, long long w, bool there) {
              const Two<A> one = held ? window[held ? place : 0] : scored(w, there);
              if (there) Of::add_product(gradient, key_of(w), one.first * (one.second - sum));
            });
            if (active) Of::write(head_at(dq, dq_strides, b, h, t), lane, gradient, A(scale));
          }
          if (active && lane == 0) own[own_place] = sum;
        });
  }
};

// From the side of a key, over the queries w of its window:
//   dk[t] = scale * sum of ds * q[w],  dv[t] = sum of p * dout[w]
template <NeighborhoodKeyBackwardSpec S>
struct NeighborhoodKeyBackward {
  using Of = NeighborhoodOf<S>;
  using A = typename Of::A;
  using T = typename Of::T;
  static constexpr int block_threads = Of::block_threads;

  const T* dout;
  const T* q;
  const T* k;
  const T* v;
  const A* largest;
  const A* weight;
  const A* own;
  T* dk;
  T* dv;
  long long heads;
  long long tokens;
  double scale;
  HeadStrides dout_strides;
  HeadStrides q_strides;
  HeadStrides k_strides;
  HeadStrides v_strides;
  HeadStrides dk_strides;
  HeadStrides dv_strides;

  LIGER_DEVICE void operator()(long long block) const {
    Of::each_token(
        block, heads, tokens, [&](long long b, long long h, long long t, int lane, bool active) {
          const long long first = (b * heads + h) * tokens;
          const auto key = Of::read(head_at(k, k_strides, b, h, t), lane);
          const auto value = Of::read(head_at(v, v_strides, b, h, t), lane);
          auto of_key = Of::zeros();
          auto of_value = Of::zeros();
          Of::template each_neighbour<false>(t, tokens, [&](int, long long w, bool there) {
            const auto query = Of::read(head_at(q, q_strides, b, h, w), lane);
            const auto upstream = Of::read(head_at(dout, dout_strides, b, h, w), lane);
            const A p =
                probability<Of::exact>(Of::dot(query, key) * A(scale) - largest[first + w]) /
                weight[first + w];
            if constexpr (S.dk) {
              const A ds = p * (Of::dot(upstream, value) - own[first + w]);
              if (there) Of::add_product(of_key, query, ds);
            }
            if constexpr (S.dv) {
              if (there) Of::add_product(of_value, upstream, p);
            }
          });
          if (!active) return;
          if constexpr (S.dk) Of::write(head_at(dk, dk_strides, b, h, t), lane, of_key, A(scale));
          if constexpr (S.dv) Of::write(head_at(dv, dv_strides, b, h, t), lane, of_value, A(1));
        });
  }
};

}  // namespace liger
