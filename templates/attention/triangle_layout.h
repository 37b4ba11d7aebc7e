// Lower triangles of matrices [batch, channels, N, N], and the same with the channels last,
// [batch, N, N, channels]. What lies beyond the diagonal is not read, and is 0 in what is written.
//
// A thread turns eight columns of eight channels in its registers: a vector of memory is along the
// columns on one side and along the channels on the other. Threads that follow one another take
// the channels first, so that what a warp touches on the side of the channels are whole sectors.
#pragma once
#include "device/row.h"

namespace liger {

struct TriangleLayoutSpec {
  Dtype x;
  int width;  // N
  int channels;
  int align_bytes;
  bool to_channels_last;
  bool adds_bias;  // a channel's, up to the diagonal; with the channels last in x
  bool clears;     // writes what lies beyond the diagonal
  int units;       // tuned; of a block: packs of columns of packs of channels
};

// to[i] has element i of each of the packs.
template <class T>
LIGER_DEVICE void turned(const RawPack<T> (&from)[pack_size], RawPack<T> (&to)[pack_size]) {
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
    if constexpr (two_bytes<T>) {
      LIGER_UNROLL for (int pair = 0; pair < pack_size / 2; ++pair) {
        const unsigned int first = from[2 * pair].words[i / 2];
        const unsigned int second = from[2 * pair + 1].words[i / 2];
        to[i].words[pair] =
            i % 2 == 0 ? (first & 0xffffu) | second << 16 : first >> 16 | (second & 0xffff0000u);
      }
    } else {
      constexpr int words = sizeof(T) / sizeof(unsigned int);
      LIGER_UNROLL for (int j = 0; j < pack_size; ++j) {
        LIGER_UNROLL for (int word = 0; word < words; ++word) to[i].words[j * words + word] =
            from[j].words[i * words + word];
      }
    }
  }
}

template <TriangleLayoutSpec S>
struct TriangleLayout {
  static constexpr int block_threads = on_host ? 1 : S.units;
  using T = Type<S.x>;
  using A = Arithmetic<S.x>;

  const T* x;
  const T* bias;
  T* y;
  long long rows;  // batch * N

  LIGER_DEVICE void operator()(long long block) const {
    const long long first = block * S.units;
    if constexpr (on_host) {
      for (long long unit = first; unit < first + S.units; ++unit) turn(unit);
    } else {
      turn(first + thread_index());
    }
  }

 private:
  static constexpr int column_packs = (S.width + pack_size - 1) / pack_size;
  static constexpr int channel_packs = (S.channels + pack_size - 1) / pack_size;
  static constexpr int neighbours = channel_packs < 8 ? channel_packs : 8;  // 128 bytes of 16 bits
  static constexpr int strips = (channel_packs + neighbours - 1) / neighbours;
  static constexpr int units_of_row = strips * column_packs * neighbours;

  // What every row of so many elements begins at a multiple of.
  static LIGER_DEVICE constexpr int aligned(int elements) {
    int bytes = S.align_bytes;
    while (bytes > 1 && elements * static_cast<int>(sizeof(T)) % bytes != 0) bytes /= 2;
    return bytes;
  }
  static constexpr int align_of_columns = aligned(S.width);
  static constexpr int align_of_channels = aligned(S.channels);

  LIGER_DEVICE void turn(long long unit) const {
    // Of unsigned numbers a quotient by a power of two is a shift.
    const auto row = static_cast<long long>(static_cast<unsigned long long>(unit) / units_of_row);
    if (row >= rows) return;
    const int place = static_cast<int>(unit - row * units_of_row);
    const int strip = place / (column_packs * neighbours);
    const int channels = strip * neighbours + place % neighbours;
    const int columns = place / neighbours % column_packs;
    if (strips > 1 && channels >= channel_packs) return;
    const auto batch = static_cast<long long>(static_cast<unsigned long long>(row) / S.width);
    const int last = static_cast<int>(row - batch * S.width);
    if (!S.clears && columns * pack_size > last) return;
    if constexpr (S.to_channels_last) {
      channels_to_the_end(batch, row, last, channels, columns);
    } else {
      channels_to_the_front(batch, row, last, channels, columns);
    }
  }

  // Of one channel in [batch, channels, N, N], the row that is `row` of [batch, N].
  LIGER_DEVICE static long long row_of(long long batch, long long row, int channel) {
    return (row + (batch * (S.channels - 1) + channel) * S.width) * S.width;
  }
  LIGER_DEVICE static bool has_channel(int channel) {
    return S.channels % pack_size == 0 || channel < S.channels;
  }
  LIGER_DEVICE static bool has_column(int column) {
    return S.width % pack_size == 0 || column < S.width;
  }

  LIGER_DEVICE void channels_to_the_end(long long batch, long long row, int last, int channels,
                                        int columns) const {
    RawPack<T> made[pack_size] = {};
    if (columns * pack_size <= last) {
      RawPack<T> read[pack_size] = {};
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        const int channel = channels * pack_size + i;
        if (has_channel(channel))
          read[i] =
              load_raw_pack<S.width, align_of_columns>(x + row_of(batch, row, channel), columns);
      }
      turned(read, made);
    }
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      const int column = columns * pack_size + i;
      if (column > last) made[i] = {};
      if (has_column(column))
        store_raw_pack<S.channels, align_of_channels>(y + (row * S.width + column) * S.channels,
                                                      channels, made[i]);
    }
  }

  LIGER_DEVICE void channels_to_the_front(long long batch, long long row, int last, int channels,
                                          int columns) const {
    RawPack<T> made[pack_size] = {};
    if (columns * pack_size <= last) {
      RawPack<T> read[pack_size] = {};
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        const int column = columns * pack_size + i;
        if (column <= last)
          read[i] = load_raw_pack<S.channels, align_of_channels>(
              x + (row * S.width + column) * S.channels, channels);
      }
      if constexpr (S.adds_bias) add_bias(read, last, channels, columns);
      turned(read, made);
    }
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      const int channel = channels * pack_size + i;
      if (has_channel(channel))
        store_raw_pack<S.width, align_of_columns>(y + row_of(batch, row, channel), columns,
                                                  made[i]);
    }
  }

  LIGER_DEVICE void add_bias(RawPack<T> (&values)[pack_size], int last, int channels,
                             int columns) const {
    const auto added = load_pack<S.channels, static_cast<int>(sizeof(T))>(bias, channels);
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      if (columns * pack_size + i <= last) values[i] = narrowed<T>(widened(values[i]) + added);
    }
  }
};

}  // namespace liger
