// RMS norm of all heads of a token together, of q and of k, then rotary embedding of each head, as
// one kernel over both; and the same way back. Every rounding is that of a norm and a rotation one
// after the other, and so are the sums.
#pragma once
#include "device/half_split.h"
#include "device/head_strides.h"
#include "device/rms_row.h"
#include "device/weight_gradient.h"

namespace liger {

// A token's heads as one row, which begins at its first head. Each head stands by itself in memory.
template <int Heads, int HeadSize, int AlignBytes>
struct TokenRow {
  static constexpr int size = Heads * HeadSize;
  static constexpr bool wide = HeadSize % pack_size == 0;  // a pack is of one head
  static constexpr int packs_of_head = wide ? HeadSize / pack_size : 1;

  static LIGER_DEVICE long long place(int pack, long long head_stride) {
    return pack / packs_of_head * head_stride + pack % packs_of_head * pack_size;
  }
  template <class T>
  static LIGER_DEVICE T& element(T* row, long long head_stride, int column) {
    return row[column / HeadSize * head_stride + column % HeadSize];
  }

  template <class T>
  static LIGER_DEVICE RawPack<T> load(const T* row, long long head_stride, int pack) {
    if constexpr (wide) {
      return load_raw<AlignBytes>(row + place(pack, head_stride));
    } else {
      T elements[pack_size] = {};
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        const int column = pack * pack_size + i;
        if (column < size) elements[i] = element(row, head_stride, column);
      }
      RawPack<T> result;
      copy_bytes(result.words, elements, sizeof(elements));
      return result;
    }
  }

  template <class T, class A>
  static LIGER_DEVICE void store(T* row, long long head_stride, int pack, const Pack<A>& values) {
    if constexpr (wide) {
      liger::store<AlignBytes>(row + place(pack, head_stride), values);
    } else {
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        const int column = pack * pack_size + i;
        if (column < size) element(row, head_stride, column) = narrow<T>(values.v[i]);
      }
    }
  }
};

// The rotation of each head of such a row.
template <class A, int Heads, int HeadSize, int Rotary>
struct TokenHalves {
  static constexpr int half = Rotary / 2;
  // Packs turn with packs; else elements with elements.
  static constexpr bool wide = half % pack_size == 0 && HeadSize % pack_size == 0;
  static constexpr int half_packs = half / pack_size;
  static constexpr int packs_of_head = HeadSize / pack_size;

  // The pack that a pack turns with; itself where it is left alone.
  static LIGER_DEVICE int other(int pack) {
    const int place = pack % packs_of_head;
    if (place >= 2 * half_packs) return pack;
    return place < half_packs ? pack + half_packs : pack - half_packs;
  }

  // A pack of the row turned by its angles, or turned back. The row is read with `at(slot, pack)`,
  // `other(slot, pack)` for what that turns with, and `element(column)`.
  template <bool Back, class Values, class Angles>
  static LIGER_DEVICE Pack<A> turned(int slot, int pack, const Values& x, const Angles& cos,
                                     const Angles& sin) {
    Pack<A> result = x.at(slot, pack);
    if constexpr (wide) {
      const int place = pack % packs_of_head;
      if (place >= 2 * half_packs) return result;
      const bool low = place < half_packs;
      const int across = low ? place + half_packs : place - half_packs;
      const Pack<A> from = x.other(slot, pack) * sin.at(0, Back ? across : place);
      return turned_by<Back>(low, result, cos.at(0, place), from);
    } else {
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        const int column = pack * pack_size + i;
        const int place = column % HeadSize;
        if (column >= Heads * HeadSize || place >= Rotary) continue;
        const bool low = place < half;
        const int across = low ? half : -half;
        const A from = x.element(column + across) * sin.element(Back ? place + across : place);
        result.v[i] = turned_by<Back>(low, result.v[i], cos.element(place), from);
      }
      return result;
    }
  }
};

// A thread's share of such a row. On a GPU it is read once and kept in registers, as it is in
// memory, with what it turns with if it Turns; on the host, where it stays in the L1 cache, anew at
// each use.
template <class Row, class Token, class Halves, bool Turns, class T>
class TokenShare {
 public:
  using A = typename ArithmeticOf<T>::Type;
  LIGER_DEVICE TokenShare(const T* row, long long head_stride, int thread)
      : row_(row), head_stride_(head_stride) {
    if constexpr (held) {
      Row::each(thread, [&](int slot, int pack) {
        packs_[slot] = Token::load(row, head_stride, pack);
        if constexpr (holds_others)
          others_[slot] = Token::load(row, head_stride, Halves::other(pack));
      });
    }
  }
  LIGER_DEVICE Pack<A> at(int slot, int pack) const {
    if constexpr (held) return widened(packs_[slot]);
    return widened(Token::load(row_, head_stride_, pack));
  }
  LIGER_DEVICE Pack<A> other(int slot, int pack) const {
    if constexpr (holds_others) return widened(others_[slot]);
    return widened(Token::load(row_, head_stride_, Halves::other(pack)));
  }
  LIGER_DEVICE A element(int column) const {
    return widen(Token::element(row_, head_stride_, column));
  }

 private:
  static constexpr bool held = !on_host;
  static constexpr bool holds_others = held && Turns && Halves::wide;

  const T* row_;
  long long head_stride_;
  RawPack<T> packs_[held ? Row::slots : 1];
  RawPack<T> others_[holds_others ? Row::slots : 1];
};

// How a kernel of that spec sees q, or k, with so many heads.
template <auto S, int Heads>
struct TokenSide {
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Token = TokenRow<Heads, S.head_size, S.align_bytes>;
  using Halves = TokenHalves<A, Heads, S.head_size, S.rotary>;
  using Row = RowOf<Token::size, S.threads, S.rows, !on_host>;
  using Norm = RmsRow<Row, Token::size, S.align_bytes, true, S.round_early, T>;
  using Share = TokenShare<Row, Token, Halves, false, T>;
  using TurningShare = TokenShare<Row, Token, Halves, true, T>;
};

// A token's angles. They are read anew for each head, from the L1 cache.
template <auto S>
using TokenAngles =
    Angles<RowShare<RowOf<S.rotary, 1>, S.rotary, S.align_bytes, false, Type<S.angle>>,
           Arithmetic<S.x>>;

struct FullQkNormRopeForwardSpec {
  Dtype x;
  Dtype weight;
  Dtype angle;       // of cos and sin
  bool round_early;  // Llama: round the normalised row to x's type before the weight
  int head_size;
  int rotary;
  int q_heads;
  int k_heads;
  int align_bytes;
  int threads;  // tuned; of one token
  int rows;     // tuned; tokens of one block
};

// The first blocks have tokens of q, the others of k, as many of each.
template <FullQkNormRopeForwardSpec S>
struct FullQkNormRopeForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using W = Type<S.weight>;

  const T* q;
  const T* k;
  const W* q_weight;
  const W* k_weight;
  const Type<S.angle>* cos;
  const Type<S.angle>* sin;
  T* q_out;
  T* k_out;
  A* q_rstd;  // [batch, tokens]
  A* k_rstd;
  long long batch;
  long long tokens;
  HeadStrides q_strides;
  HeadStrides k_strides;
  HeadStrides q_out_strides;
  HeadStrides k_out_strides;
  long long cos_strides[2];  // of batch, token
  long long sin_strides[2];
  double eps;
  double offset;

  // What a block works on.
  struct Side {
    const T* from;
    const W* weight;
    T* to;
    A* rstd;
    HeadStrides from_strides;
    HeadStrides to_strides;
  };

  LIGER_DEVICE void operator()(long long block) const {
    const long long blocks_of_side = (batch * tokens + S.rows - 1) / S.rows;
    if (block < blocks_of_side) {
      some_tokens<S.q_heads>(block, {q, q_weight, q_out, q_rstd, q_strides, q_out_strides});
    } else {
      some_tokens<S.k_heads>(block - blocks_of_side,
                             {k, k_weight, k_out, k_rstd, k_strides, k_out_strides});
    }
  }

 private:
  // A token's heads as a norm leaves them.
  template <class Of>
  struct Normed {
    const typename Of::TurningShare& x;
    const W* weight;
    A rstd;
    double offset;
    LIGER_DEVICE Pack<A> at(int slot, int pack) const { return normed(x.at(slot, pack), pack); }
    LIGER_DEVICE Pack<A> other(int slot, int pack) const {
      return normed(x.other(slot, pack), Of::Halves::other(pack));
    }
    LIGER_DEVICE A element(int column) const {
      auto v = x.element(column) * rstd;
      if constexpr (S.round_early) v = rounded_to<T>(v);
      return rounded_to<T>(v * (widen(weight[column]) + A(offset)));
    }
    LIGER_DEVICE Pack<A> normed(const Pack<A>& v, int pack) const {
      return rounded_to<T>(Of::Norm::weighted(Of::Norm::rounded(v * rstd), weight, pack, offset));
    }
  };

  template <int Heads>
  LIGER_DEVICE void some_tokens(long long block, const Side& side) const {
    using Of = TokenSide<S, Heads>;
    each_row<S.threads, S.rows>(block, batch * tokens, [&](long long row, int thread, bool active) {
      const long long b = row / tokens;
      const long long t = row % tokens;
      const typename Of::TurningShare x(
          side.from + b * side.from_strides.batch + t * side.from_strides.token,
          side.from_strides.head, thread);
      const A r = Of::Norm::rstd(thread, eps, [&](int slot, int pack) { return x.at(slot, pack); });
      if (!active) return;
      const TokenAngles<S> c(cos + b * cos_strides[0] + t * cos_strides[1], thread);
      const TokenAngles<S> s(sin + b * sin_strides[0] + t * sin_strides[1], thread);
      const Normed<Of> normed{x, side.weight, r, offset};
      T* const to = side.to + b * side.to_strides.batch + t * side.to_strides.token;
      Of::Row::each(thread, [&](int slot, int pack) {
        const auto y = Of::Halves::template turned<false>(slot, pack, normed, c, s);
        Of::Token::store(to, side.to_strides.head, pack, y);
      });
      if (thread == 0) side.rstd[row] = r;
    });
  }
};

struct FullQkNormRopeBackwardSpec {
  Dtype x;
  Dtype weight;
  Dtype angle;
  bool round_early;
  int head_size;
  int rotary;
  int q_heads;
  int k_heads;
  int align_bytes;
  bool want_dx;
  bool want_dweight;
  int threads;  // tuned
  int rows;     // tuned; partials of one block
};

// The gradient of a token's heads is turned back, rounded, and taken through the norm as
// RmsNormBackward does. The first blocks have partials of q, the others of k, as many of each.
template <FullQkNormRopeBackwardSpec S>
struct FullQkNormRopeBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using W = Type<S.weight>;

  const T* dq_out;
  const T* dk_out;
  const T* q;
  const T* k;
  const W* q_weight;
  const W* k_weight;
  const Type<S.angle>* cos;
  const Type<S.angle>* sin;
  const A* q_rstd;
  const A* k_rstd;
  T* dq;
  T* dk;
  A* q_partials;
  A* k_partials;
  long long batch;
  long long tokens;
  long long partial_rows;
  HeadStrides dq_out_strides;
  HeadStrides dk_out_strides;
  HeadStrides q_strides;
  HeadStrides k_strides;
  HeadStrides dq_strides;
  HeadStrides dk_strides;
  long long cos_strides[2];
  long long sin_strides[2];
  double offset;

  // What a block works on.
  struct Side {
    const T* dy;
    const T* x;
    const W* weight;
    const A* rstd;
    T* dx;
    A* partials;
    HeadStrides dy_strides;
    HeadStrides x_strides;
    HeadStrides dx_strides;
  };

  LIGER_DEVICE void operator()(long long block) const {
    const long long blocks_of_side = (partial_rows + S.rows - 1) / S.rows;
    if (block < blocks_of_side) {
      some_partials<S.q_heads>(block, {dq_out, q, q_weight, q_rstd, dq, q_partials, dq_out_strides,
                                       q_strides, dq_strides});
    } else {
      some_partials<S.k_heads>(block - blocks_of_side, {dk_out, k, k_weight, k_rstd, dk, k_partials,
                                                        dk_out_strides, k_strides, dk_strides});
    }
  }

 private:
  // What a thread reads of one token, and where it writes.
  template <class Of>
  struct Reading {
    typename Of::TurningShare dy;
    typename Of::Share x;
    TokenAngles<S> cos;
    TokenAngles<S> sin;
    A rstd;
    T* dx;
  };

  template <class Of>
  using SumsOf = ColumnAccumulator<typename Of::Row, Of::Token::size, !on_host, S.want_dweight, A>;

  template <int Heads>
  LIGER_DEVICE void some_partials(long long block, const Side& side) const {
    using Of = TokenSide<S, Heads>;
    using Sums = SumsOf<Of>;
    each_partial<S.threads, S.rows>(
        block, batch * tokens, partial_rows,
        [&](long long partial, int thread) { return Sums(side.partials, partial, thread); },
        [&](long long row, int thread) { return read<Of>(side, row, thread); },
        [&](const Turn& turn, const Reading<Of>& token, Sums& sums) {
          one_token(turn, token, side, sums);
        },
        [&](const Sums& sums, int thread) { sums.write(thread); });
  }

  template <class Of>
  LIGER_DEVICE Reading<Of> read(const Side& side, long long row, int thread) const {
    const long long b = row / tokens;
    const long long t = row % tokens;
    const auto begin = [&](const HeadStrides& strides) {
      return b * strides.batch + t * strides.token;
    };
    return {{side.dy + begin(side.dy_strides), side.dy_strides.head, thread},
            {side.x + begin(side.x_strides), side.x_strides.head, thread},
            {cos + b * cos_strides[0] + t * cos_strides[1], thread},
            {sin + b * sin_strides[0] + t * sin_strides[1], thread},
            side.rstd[row],
            side.dx + begin(side.dx_strides)};
  }

  template <class Of>
  LIGER_DEVICE void one_token(const Turn& turn, const Reading<Of>& token, const Side& side,
                              SumsOf<Of>& sums) const {
    using Norm = typename Of::Norm;
    using Row = typename Of::Row;
    const auto weighted = [&](const Pack<A>& d, int pack) {
      return Norm::template weighted<false>(d, side.weight, pack, offset);
    };
    // The gradient of the normalised row, in the rounding that a rotation of its own would give it.
    RawPack<T> dy[Row::slots];
    Row::each(turn.thread, [&](int slot, int pack) {
      dy[slot] = narrowed<T>(
          Of::Halves::template turned<true>(slot, pack, token.dy, token.cos, token.sin));
    });
    const A r = token.rstd;
    A mean = 0;
    if constexpr (S.want_dx) {
      mean = Norm::mean(turn.buffer, turn.thread, [&](int slot, int pack) {
        return weighted(widened(dy[slot]), pack) * (token.x.at(slot, pack) * r);
      });
    }
    if (!turn.active) return;
    Row::each(turn.thread, [&](int slot, int pack) {
      const auto d = widened(dy[slot]);
      const auto xhat = token.x.at(slot, pack) * r;
      if constexpr (S.want_dx) {
        const auto g = Norm::gradient(weighted(d, pack), xhat, mean, r);
        Of::Token::store(token.dx, side.dx_strides.head, pack, g);
      }
      if constexpr (S.want_dweight) sums.add_product(slot, pack, d, Norm::rounded(xhat));
    });
  }
};

}  // namespace liger
