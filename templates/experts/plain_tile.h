// A tile of a matrix product without matrix units: for what the libraries have no grouped product
// for. Sums are float32, or double for float64, and run over the depth in its order.
#pragma once
#include "device/math.h"

namespace liger {

template <class A>
struct PlainTile {
  static constexpr int size = 64;   // rows and columns
  static constexpr int depth = 16;  // that are on the chip at once
  static constexpr int threads = 256;
  static constexpr int side = 4;  // rows and columns of a thread

  // put(row, column, sum over k < depth of left(row, k) * right(k, column)), for the rows and
  // columns that are there; the functions are asked for no other. What lies side by side in memory
  // is read by neighbouring threads.
  template <bool LeftByDepth, bool RightByDepth, class Left, class Right, class Put>
  static LIGER_DEVICE void product(long long rows, long long columns, long long total_depth,
                                   Left&& left, Right&& right, Put&& put) {
    if constexpr (on_host) {
      for (int row = 0; row < size && row < rows; ++row) {
        A sums[size] = {};
        for (long long k = 0; k < total_depth; ++k) {
          const A one = left(row, k);
          for (int column = 0; column < size && column < columns; ++column)
            sums[column] = fused(one, right(k, column), sums[column]);
        }
        for (int column = 0; column < size && column < columns; ++column)
          put(row, column, sums[column]);
      }
    } else {
      on_chip<LeftByDepth, RightByDepth>(rows, columns, total_depth, left, right, put);
    }
  }

 private:
  template <bool LeftByDepth, bool RightByDepth, class Left, class Right, class Put>
  static LIGER_DEVICE void on_chip(long long rows, long long columns, long long total_depth,
                                   Left& left, Right& right, Put& put) {
    LIGER_SHARED A lefts[depth][size + 1];  // a column more: threads write to different banks
    LIGER_SHARED A rights[depth][size + 1];
    const int thread = thread_index();
    const int first_row = thread / (size / side) * side;
    const int first_column = thread % (size / side) * side;
    A sums[side][side] = {};
    for (long long first = 0; first < total_depth; first += depth) {
      LIGER_UNROLL for (int i = thread; i < depth * size; i += threads) {
        const int k = LeftByDepth ? i % depth : i / size;
        const int row = LeftByDepth ? i / depth : i % size;
        lefts[k][row] = row < rows && first + k < total_depth ? left(row, first + k) : A(0);
      }
      LIGER_UNROLL for (int i = thread; i < depth * size; i += threads) {
        const int k = RightByDepth ? i % depth : i / size;
        const int column = RightByDepth ? i / depth : i % size;
        rights[k][column] =
            column < columns && first + k < total_depth ? right(first + k, column) : A(0);
      }
      barrier();
      LIGER_UNROLL for (int k = 0; k < depth; ++k) {
        A some[side];
        LIGER_UNROLL for (int j = 0; j < side; ++j) some[j] = rights[k][first_column + j];
        LIGER_UNROLL for (int i = 0; i < side; ++i) {
          const A one = lefts[k][first_row + i];
          LIGER_UNROLL for (int j = 0; j < side; ++j) sums[i][j] = fused(one, some[j], sums[i][j]);
        }
      }
      barrier();
    }
    LIGER_UNROLL for (int i = 0; i < side; ++i) {
      LIGER_UNROLL for (int j = 0; j < side; ++j) {
        if (first_row + i < rows && first_column + j < columns)
          put(first_row + i, first_column + j, sums[i][j]);
      }
    }
  }
};

}  // namespace liger
