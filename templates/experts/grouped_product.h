// Products of rows that are grouped by expert, on every target. With `gathers` rows are read where
// the tokens are, through the token of each place.
#pragma once
#include "experts/plain_tile.h"
#include "experts/segments.h"

namespace liger {

struct GroupedProductSpec {
  Dtype x;
  bool gathers;
  bool turned;      // the weight of an expert is [in, out], not [out, in]
  int align_bytes;  // those of an element: rows are read one by one
  int threads;
};

// y[p] = x[p] @ weight[e], or its transpose, zeros at the places of nobody: blocks have a segment
// of rows and a tile of columns.
template <GroupedProductSpec S>
struct GroupedProduct {
  using A = Arithmetic<S.x>;
  using Tile = PlainTile<A>;
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static_assert(on_host || S.threads == Tile::threads);

  const Type<S.x>* x;
  const Type<S.x>* weight;
  const int* tokens;
  const int* ends;
  Type<S.x>* y;
  long long num_experts;
  long long places;
  long long inner;
  long long columns;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    const long long tiles = (columns + Tile::size - 1) / Tile::size;
    const Segment rows = segment_of<Tile::size>(ends, num_experts, places, block / tiles);
    const long long first = block % tiles * Tile::size;
    if (rows.end <= rows.begin) return;
    const auto* const of_expert = weight + rows.expert * inner * columns;
    const long long depth = rows.expert < num_experts ? inner : 0;  // those of nobody are zero
    Tile::template product<true, !S.turned>(
        rows.end - rows.begin, columns - first, depth,
        [&](int row, long long k) {
          const long long place = rows.begin + row;
          return A(widen(x[(S.gathers ? tokens[place] : place) * x_stride + k]));
        },
        [&](long long k, int column) {
          const long long at =
              S.turned ? k * columns + first + column : (first + column) * inner + k;
          return A(widen(of_expert[at]));
        },
        [&](int row, int column, A sum) {
          y[(rows.begin + row) * columns + first + column] = narrow<Type<S.x>>(sum);
        });
  }
};

struct GroupedWeightGradientSpec {
  Dtype x;
  bool gathers_left;
  bool gathers_right;
  int align_bytes;  // those of an element
  int threads;
};

// y[e] = the sum over the places p of expert e of the outer products of left[p] and right[p]: zeros
// for an expert that has none.
template <GroupedWeightGradientSpec S>
struct GroupedWeightGradient {
  using A = Arithmetic<S.x>;
  using Tile = PlainTile<A>;
  static constexpr int block_threads = on_host ? 1 : S.threads;
  static_assert(on_host || S.threads == Tile::threads);

  const Type<S.x>* left;
  const Type<S.x>* right;
  const int* tokens;
  const int* ends;
  Type<S.x>* y;
  long long rows;     // columns of left
  long long columns;  // of right
  long long left_stride;
  long long right_stride;

  LIGER_DEVICE void operator()(long long block) const {
    const long long across = (columns + Tile::size - 1) / Tile::size;
    const long long down = (rows + Tile::size - 1) / Tile::size;
    const long long expert = block / (across * down);
    const long long first_row = block / across % down * Tile::size;
    const long long first_column = block % across * Tile::size;
    const long long begin = start_of_expert(ends, expert);
    Tile::template product<false, false>(
        rows - first_row, columns - first_column, ends[expert] - begin,
        [&](int row, long long k) {
          const long long place = S.gathers_left ? tokens[begin + k] : begin + k;
          return A(widen(left[place * left_stride + first_row + row]));
        },
        [&](long long k, int column) {
          const long long place = S.gathers_right ? tokens[begin + k] : begin + k;
          return A(widen(right[place * right_stride + first_column + column]));
        },
        [&](int row, int column, A sum) {
          y[(expert * rows + first_row + row) * columns + first_column + column] =
              narrow<Type<S.x>>(sum);
        });
  }
};

}  // namespace liger
