// c = a @ w for a of signed bytes [M, K] and w of the numbers -1 to 2, four to a byte [K / 4, N]:
// byte [j, n] has w[j + i * K / 4, n] + 1 in its bits 2 i and 2 i + 1. Sums are exact in 32 bits.
#pragma once
#include "device/dot.h"
#include "device/dtype.h"

namespace liger {

struct Int2MatmulSpec {
  bool a_words;  // four neighbours of a row may be read at once, wherever they begin in a quarter
  bool b_words;  // so may four of a row of b, from every fourth on
  int threads;
  int tile_rows;  // tuned; of c, that a block makes
};

template <Int2MatmulSpec S>
struct Int2Matmul {
  static constexpr int block_threads = on_host ? 1 : S.threads;

  const signed char* a;
  const unsigned char* b;
  int* c;
  long long rows;
  long long quarter;  // K / 4
  long long columns;

  LIGER_DEVICE void operator()(long long block) const {
    const long long column_tiles = (columns + tile_columns - 1) / tile_columns;
    const long long first_row = block / column_tiles * S.tile_rows;
    const long long first_column = block % column_tiles * tile_columns;
    if constexpr (on_host) {
      host_tile(first_row, first_column);
    } else {
      gpu_tile(first_row, first_column);
    }
  }

 private:
  static constexpr int tile_columns = 64;

  // On a GPU: tiles in shared memory, as words of four neighbours along K. `depth` bytes of a
  // column bring 4 * depth of its numbers.
  static constexpr int depth = 32;
  static constexpr int quads = depth / 4;
  static constexpr int words = 4 * quads;  // of a row or column of a tile
  static constexpr int lanes = 16;         // threads along the columns
  static constexpr int rows_each = S.tile_rows * lanes / S.threads;
  static constexpr int columns_each = tile_columns / lanes;
  static_assert(on_host || S.tile_rows * lanes == rows_each * S.threads,
                "rows of a tile are dealt out evenly");
  static constexpr int a_pitch = S.tile_rows + 4;  // so that neighbours' stores meet less often

  LIGER_DEVICE void gpu_tile(long long first_row, long long first_column) const {
    LIGER_SHARED int a_tile[words][a_pitch];
    LIGER_SHARED int b_tile[words][tile_columns];
    const int row = thread_index() / lanes * rows_each;
    const int column = thread_index() % lanes * columns_each;
    int sums[rows_each][columns_each] = {};
    LIGER_UNROLL_BY(1) for (long long first = 0; first < quarter; first += depth) {
      read_a(a_tile, first_row, first);
      read_b(b_tile, first, first_column);
      barrier();
      LIGER_UNROLL_BY(4) for (int word = 0; word < words; ++word) {
        LIGER_UNROLL for (int r = 0; r < rows_each; ++r) {
          LIGER_UNROLL for (int n = 0; n < columns_each; ++n) {
            sums[r][n] = dot_of_bytes(a_tile[word][row + r], b_tile[word][column + n], sums[r][n]);
          }
        }
      }
      barrier();
    }
    LIGER_UNROLL for (int r = 0; r < rows_each; ++r) {
      LIGER_UNROLL for (int n = 0; n < columns_each; ++n) {
        if (first_row + row + r < rows && first_column + column + n < columns) {
          c[(first_row + row + r) * columns + first_column + column + n] = sums[r][n];
        }
      }
    }
  }

  // What is past the end is zero in a, so b may have anything there.
  LIGER_DEVICE void read_a(int (&tile)[words][a_pitch], long long first_row,
                           long long first) const {
    LIGER_UNROLL_BY(4)
    for (int i = thread_index(); i < words * S.tile_rows; i += S.threads) {
      const int word = i % words;
      const long long row = first_row + i / words;
      const long long place = first + word % quads * 4;
      const signed char* const from = a + row * 4 * quarter + word / quads * quarter + place;
      int four = 0;
      if (row < rows && place < quarter) {
        if constexpr (S.a_words) {
          four = *reinterpret_cast<const int*>(from);
        } else {
          LIGER_UNROLL for (int j = 0; j < 4; ++j) {
            if (place + j < quarter) four |= (from[j] & 255) << 8 * j;
          }
        }
      }
      tile[word][i / words] = four;
    }
  }

  // Four bytes of each of four rows, turned: a word for each column, and of it one for each
  // quarter.
  LIGER_DEVICE void read_b(int (&tile)[words][tile_columns], long long first,
                           long long first_column) const {
    for (int i = thread_index(); i < quads * (tile_columns / 4); i += S.threads) {
      const int quad = i / (tile_columns / 4);
      const int column = i % (tile_columns / 4) * 4;
      unsigned int of_row[4];
      LIGER_UNROLL for (int j = 0; j < 4; ++j) {
        of_row[j] = four_of_b(first + quad * 4 + j, first_column + column);
      }
      LIGER_UNROLL for (int n = 0; n < 4; ++n) {
        unsigned int of_column = 0;
        LIGER_UNROLL for (int j = 0; j < 4; ++j) {
          of_column |= (of_row[j] >> 8 * n & 255u) << 8 * j;
        }
        LIGER_UNROLL for (int part = 0; part < 4; ++part) {
          tile[part * quads + quad][column + n] = less_one(of_column >> 2 * part & 0x03030303u);
        }
      }
    }
  }

  LIGER_DEVICE unsigned int four_of_b(long long place, long long column) const {
    if (place >= quarter || column >= columns) return 0;
    const unsigned char* const from = b + place * columns + column;
    if constexpr (S.b_words) return *reinterpret_cast<const unsigned int*>(from);
    unsigned int four = 0;
    LIGER_UNROLL for (int n = 0; n < 4; ++n) {
      if (column + n < columns) four |= static_cast<unsigned int>(from[n]) << 8 * n;
    }
    return four;
  }

  // Each of four bytes from 0 to 3, less one: no carry leaves its byte.
  static LIGER_DEVICE int less_one(unsigned int four) {
    return static_cast<int>((four + 0x7f7f7f7fu) ^ 0x80808080u);
  }

  // On the host rows of a and columns of w are widened, a piece of K at a time, so that sums of
  // products become vector code.
  static constexpr int host_depth = 128;  // bytes of a column; each brings four numbers
  static constexpr int strip = 16;        // columns that are unpacked at once
  static constexpr int piece = 4 * host_depth;
  struct HostTile {
    short a[S.tile_rows][piece];
    unsigned char bytes[tile_columns][host_depth];
    short w[strip][piece];
    int sums[S.tile_rows][tile_columns];
  };

  LIGER_DEVICE void host_tile(long long first_row, long long first_column) const {
    HostTile tile = {};
    const int height = up_to(S.tile_rows, rows - first_row);
    const int width = up_to(tile_columns, columns - first_column);
    for (long long first = 0; first < quarter; first += host_depth) {
      const int count = up_to(host_depth, quarter - first);
      widen_a(tile, height, first_row, first, count);
      turn_b(tile, width, first, count, first_column);
      for (int column = 0; column < width; column += strip) {
        const int some = up_to(strip, width - column);
        unpack(tile, column, some);
        add_products(tile, height, column, some);
      }
    }
    for (int r = 0; r < height; ++r) {
      for (int n = 0; n < width; ++n)
        c[(first_row + r) * columns + first_column + n] = tile.sums[r][n];
    }
  }

  static LIGER_DEVICE int up_to(int most, long long count) {
    return count < most ? static_cast<int>(count) : most;
  }

  // Zeros after the last piece, so w may have anything there.
  LIGER_DEVICE void widen_a(HostTile& tile, int height, long long first_row, long long first,
                            int count) const {
    for (int r = 0; r < height; ++r) {
      for (int part = 0; part < 4; ++part) {
        const signed char* const from = a + ((first_row + r) * 4 + part) * quarter + first;
        short* const to = tile.a[r] + part * host_depth;
        for (int j = 0; j < count; ++j) to[j] = from[j];
        for (int j = count; j < host_depth; ++j) to[j] = 0;
      }
    }
  }

  // A row's bytes lie side by side, so each of its lines of memory is read once.
  LIGER_DEVICE void turn_b(HostTile& tile, int width, long long first, int count,
                           long long first_column) const {
    for (int j = 0; j < count; ++j) {
      const unsigned char* const from = b + (first + j) * columns + first_column;
      for (int n = 0; n < width; ++n) tile.bytes[n][j] = from[n];
    }
  }

  static LIGER_DEVICE void unpack(HostTile& tile, int column, int some) {
    for (int n = 0; n < some; ++n) {
      for (int part = 0; part < 4; ++part) {
        for (int j = 0; j < host_depth; ++j) {
          tile.w[n][part * host_depth + j] =
              static_cast<short>((tile.bytes[column + n][j] >> 2 * part & 3) - 1);
        }
      }
    }
  }

  static LIGER_DEVICE void add_products(HostTile& tile, int height, int column, int some) {
    for (int r = 0; r < height; ++r) {
      for (int n = 0; n < some; ++n) {
        int sum = 0;
        for (int k = 0; k < piece; ++k) sum += tile.a[r][k] * tile.w[n][k];
        tile.sums[r][column + n] += sum;
      }
    }
  }
};

}  // namespace liger
