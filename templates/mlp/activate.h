// y = act(x + bias), and its gradients.
#pragma once
#include "device/activation.h"
#include "device/weight_gradient.h"

namespace liger {

struct ActivateForwardSpec {
  Dtype x;
  Dtype bias;
  bool has_bias;
  int activation;
  int width;  // exact length of a row
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};
using ActivateBackwardSpec = ActivateForwardSpec;

struct ActivateBiasBackwardSpec {
  Dtype x;
  Dtype bias;
  bool has_bias;
  int activation;
  bool want_dx;
  int width;
  int align_bytes;
  int threads;  // tuned; they have a pack of columns each
};

// x + bias, where there is one. The bias is read from the L1 cache for each row.
template <auto S>
LIGER_DEVICE Pack<Arithmetic<S.x>> biased(const Pack<Arithmetic<S.x>>& x, const Type<S.bias>* bias,
                                          int pack) {
  using A = Arithmetic<S.x>;
  if constexpr (!S.has_bias) return x;
  const auto b = load_pack<S.width, S.align_bytes>(bias, pack);
  return map([](A value, A shift) { return value + shift; }, x, b);
}

template <auto S>
LIGER_DEVICE Pack<Arithmetic<S.x>> activation_gradient(const Pack<Arithmetic<S.x>>& dy,
                                                       const Pack<Arithmetic<S.x>>& x) {
  using A = Arithmetic<S.x>;
  return map([](A d, A value) { return d * activated<S.activation, S.x>(value).slope; }, dy, x);
}

template <ActivateForwardSpec S>
struct ActivateForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;

  const Type<S.x>* x;
  const Type<S.bias>* bias;
  Type<S.x>* y;
  long long rows;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (!active) return;
      Row::each(thread, [&](int, int pack) {
        const auto v = load_pack<S.width, S.align_bytes>(x + row * x_stride, pack);
        const auto made = map([](A value) { return activated<S.activation, S.x>(value).value; },
                              biased<S>(v, bias, pack));
        store_pack<S.width, S.align_bytes>(y + row * S.width, pack, made);
      });
    });
  }
};

template <ActivateBackwardSpec S>
struct ActivateBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using Row = RowOf<S.width, S.threads, S.rows>;

  const Type<S.x>* dy;
  const Type<S.x>* x;
  const Type<S.bias>* bias;
  Type<S.x>* dx;
  long long rows;
  long long dy_stride;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row_from_the_end<S.threads, S.rows>(
        block, rows, [&](long long row, int thread, bool active) {
          if (!active) return;
          Row::each(thread, [&](int, int pack) {
            const auto d = load_pack<S.width, S.align_bytes>(dy + row * dy_stride, pack);
            const auto v = load_pack<S.width, S.align_bytes>(x + row * x_stride, pack);
            const auto made = activation_gradient<S>(d, biased<S>(v, bias, pack));
            store_pack<S.width, S.align_bytes>(dx + row * S.width, pack, made);
          });
        });
  }
};

// The same with partial sums of dx for the bias. A block has the columns of its threads, a pack
// each, and the rows of one partial, so sums stay in registers however long a row is. On the host a
// block has whole rows.
template <ActivateBiasBackwardSpec S>
struct ActivateBiasBackward {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static constexpr int packs = (S.width + pack_size - 1) / pack_size;
  static constexpr int tiles = on_host ? 1 : (packs + S.threads - 1) / S.threads;
  using T = Type<S.x>;
  using A = Arithmetic<S.x>;

  // The packs of one thread of all tiles: on a GPU the one of its number, if the row has it.
  struct Columns {
    static constexpr int slots = 1;
    template <class F>
    static LIGER_DEVICE void each(int thread, F&& f) {
      if constexpr (on_host) {
        RowOf<S.width, 1>::each(thread, f);
      } else if (thread < packs) {
        f(0, thread);
      }
    }
  };
  using Sums = ColumnAccumulator<Columns, S.width, !on_host, true, A>;

  const T* dy;
  const T* x;
  const Type<S.bias>* bias;
  T* dx;
  A* partials;
  long long rows;
  long long partial_rows;
  long long dy_stride;
  long long x_stride;

  struct ReadRow {
    RawPack<T> dy;
    RawPack<T> x;
  };

  LIGER_DEVICE void operator()(long long block) const {
    // Neighbouring blocks have neighbouring columns of the same rows.
    const int first_thread = static_cast<int>(block % tiles) * S.threads;
    each_partial<S.threads, 1>(
        block / tiles, rows, partial_rows,
        [&](long long partial, int thread) {
          return Sums(partials, partial, first_thread + thread);
        },
        [&](long long row, int thread) { return read(row, first_thread + thread); },
        [&](Turn turn, const ReadRow& values, Sums& sums) {
          if (turn.active) one_row(turn.row, first_thread + turn.thread, values, sums);
        },
        [&](Sums& sums, int thread) { sums.write(first_thread + thread); });
  }

 private:
  LIGER_DEVICE ReadRow read(long long row, int thread) const {
    ReadRow values{};
    if constexpr (!on_host) {
      Columns::each(thread, [&](int, int pack) {
        values.dy = load_raw_pack<S.width, S.align_bytes>(dy + row * dy_stride, pack);
        values.x = load_raw_pack<S.width, S.align_bytes>(x + row * x_stride, pack);
      });
    }
    return values;
  }

  LIGER_DEVICE void one_row(long long row, int thread, const ReadRow& values, Sums& sums) const {
    Columns::each(thread, [&](int slot, int pack) {
      Pack<A> d, v;
      if constexpr (on_host) {
        d = load_pack<S.width, S.align_bytes>(dy + row * dy_stride, pack);
        v = load_pack<S.width, S.align_bytes>(x + row * x_stride, pack);
      } else {
        d = widened(values.dy);
        v = widened(values.x);
      }
      const auto made = activation_gradient<S>(d, biased<S>(v, bias, pack));
      sums.add(slot, pack, made);
      if constexpr (S.want_dx) store_pack<S.width, S.align_bytes>(dx + row * S.width, pack, made);
    });
  }
};

}  // namespace liger
