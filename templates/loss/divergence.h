// How far a row of `input` is from one of `target`: the sum of a measure of each pair of elements,
// with its gradient in the same pass over memory.
//
// A measure is a template of the spec, made of the op's one number, whose at(x, t) gives the loss
// of an element and its derivative in x. Rows whose label is ignored are not read and count
// nothing.
#pragma once
#include "device/sm90/cluster.h"
#include "device/striped.h"
#include "loss/totals.h"

namespace liger {

struct DivergenceSpec {
  Dtype input;
  int width;
  int align_bytes;
  bool log_target;  // of the measures that know it
  bool at_zero;     // the op's number is 0
  bool at_one;      // the op's number is 1
  bool has_labels;
  bool counted;  // the rows that count are, on the device
  bool each;     // the loss of each element is written
  bool with_gradient;
  int unit;     // the gradient is multiplied by it, so that a small type holds it
  int threads;  // tuned
  int rows;     // tuned
};

template <class A>
struct LossAndSlope {
  A loss;
  A slope;
};

// A long row is dealt out to blocks in pieces, each with a sum of its own.
constexpr int piece_width = 8192;
LIGER_DEVICE constexpr int pieces_of(int width) { return (width + piece_width - 1) / piece_width; }

// 1 / the denominator: a number that the host knows, times the rows that count if the device does.
template <class A>
LIGER_DEVICE A share_of(bool counted, const LossTotals<A>* totals, long long divisor) {
  const A share = quotient<true>(A(1), static_cast<A>(divisor));
  return counted ? share * totals->loss : share;
}

template <DivergenceSpec S, template <DivergenceSpec> class Measure>
struct DivergenceRows {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr int pieces = pieces_of(S.width);
  static constexpr int last_width = S.width - (pieces - 1) * piece_width;
  static_assert(on_host || pieces == 1 || S.rows == 1, "pieces of different widths have blocks");
  using A = Arithmetic<S.input>;
  using T = Type<S.input>;

  const T* input;
  const T* target;
  const long long* labels;
  const LossTotals<A>* totals;
  A* loss;  // of each element, or of each piece of a row
  T* dinput;
  long long rows;
  long long input_stride;
  long long target_stride;
  long long ignore_index;
  long long divisor;
  double number;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows * pieces, [&](long long i, int thread, bool active) {
      const int piece = static_cast<int>(i % pieces);
      constexpr bool alike = pieces == 1 || last_width == piece_width;
      if (alike || piece == pieces - 1) {
        one_piece<last_width>(i / pieces, piece, thread, active);
      } else {
        one_piece<alike ? last_width : piece_width>(i / pieces, piece, thread, active);
      }
    });
  }

 private:
  template <int N>
  LIGER_DEVICE void one_piece(long long row, int piece, int thread, bool active) const {
    using Row = RowOf<N, S.threads, S.rows>;
    const Measure<S> measure(number);
    const long long first = piece * piece_width;
    const T* const x = input + row * input_stride + first;
    const T* const t = target + row * target_stride + first;
    T* const dx = dinput + row * S.width + first;
    A* const losses = loss + row * S.width + first;
    bool counts = true;
    if constexpr (S.has_labels) counts = labels[row] != ignore_index;
    A scale = 1;
    if constexpr (S.with_gradient) scale = share_of(S.counted, totals, divisor) * A(S.unit);

    const auto of_pack = [&](int pack) {
      Pack<A> of_each = filled(A(0));
      Pack<A> gradient = filled(A(0));
      if (counts) {
        const auto a = load_striped<N, S.align_bytes>(x, pack);
        const auto b = load_striped<N, S.align_bytes>(t, pack);
        LIGER_UNROLL for (int k = 0; k < pack_size; ++k) {
          const LossAndSlope<A> one = measure.at(a.v[k], b.v[k]);
          of_each.v[k] = one.loss;
          gradient.v[k] = one.slope * scale;
        }
      }
      if constexpr (S.with_gradient) {
        if (active) store_striped<N, S.align_bytes>(dx, pack, gradient);
      }
      return of_each;
    };
    if constexpr (S.each) {
      Row::each(thread, [&](int, int pack) {
        const auto of_each = of_pack(pack);
        if (active) store_striped<N, S.align_bytes>(losses, pack, of_each);
      });
    } else {
      const A sum = Row::template sum_of_made<A>(
          0, thread, [&](int, int pack) { return without_missing<N>(pack, of_pack(pack)); });
      if (active && thread == 0) loss[row * pieces + piece] = sum;
    }
  }
};

// Measures take many registers: without a limit there would be one block.
template <class Measure>
constexpr int threads_at_once = 768;
template <class Measure>
requires(Measure::threads_at_once >
         0) constexpr int threads_at_once<Measure> = Measure::threads_at_once;

template <DivergenceSpec S, template <DivergenceSpec> class Measure>
constexpr int resident_of<DivergenceRows<S, Measure>> = S.threads* S.rows <
                                                                threads_at_once<Measure<S>>
                                                            ? threads_at_once<Measure<S>> /
                                                                  (S.threads * S.rows)
                                                            : 1;

struct DivergenceSumSpec {
  Dtype arithmetic;
  bool counted;
  int threads;
};

// Adds the losses of all pieces, in the order of the pieces alone. One block.
template <DivergenceSumSpec S>
struct DivergenceSum {
  static constexpr int block_threads = threads_of_block(S.threads, 1);
  static constexpr int owned = row_accumulators / S.threads;
  using A = Type<S.arithmetic>;

  const A* of_pieces;
  const LossTotals<A>* totals;
  A* loss;
  long long pieces;
  long long divisor;

  LIGER_DEVICE void operator()(long long) const {
    A sums[owned] = {};
    LIGER_UNROLL for (int index = 0; index < owned; ++index) {
      LIGER_UNROLL_BY(8)
      for (long long piece = index * S.threads + thread_index(); piece < pieces;
           piece += row_accumulators) {
        sums[index] += of_pieces[piece];
      }
    }
    const A sum =
        across_accumulators<row_accumulators, S.threads, 1, owned, true>(sums, Add{}, A(0), 0);
    if (thread_index() == 0) *loss = sum * share_of(S.counted, totals, divisor);
  }
};

}  // namespace liger
