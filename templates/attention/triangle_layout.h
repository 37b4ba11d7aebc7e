// Lower triangles of matrices [batch, channels, N, N], and the same with the channels last,
// [batch, N, N, channels]. What lies beyond the diagonal is not read, and is 0 in what is written.
//   TriangleLayout               y = x, and a bias of the channels, in the other order
//   CausalSoftmaxFromChannels    dx = y * (dy - sum(y * dy)) of y and dy with the channels last
//
// A thread turns eight columns of eight channels in its registers: a vector of memory is along the
// columns on one side and along the channels on the other. Threads that follow one another take
// the channels first, so that what a warp touches on the side of the channels are whole sectors.
#pragma once
#include "device/row.h"
#include "device/turned_packs.h"

namespace liger {

struct TriangleLayoutSpec {
  Dtype x;
  int width;  // N
  int channels;
  int align_bytes;
  bool to_channels_last;
  bool adds_bias;  // a channel's, up to the diagonal; with the channels last in x
  int units;       // tuned; of a block: packs of columns of packs of channels
};

// Where packs lie in memory, and the memory of them.
template <class T, int Width, int Channels, int AlignBytes>
struct TrianglePlaces {
  static constexpr int column_packs = (Width + pack_size - 1) / pack_size;
  static constexpr int channel_packs = (Channels + pack_size - 1) / pack_size;

  // `row` is of [batch, N]; `columns` and `channels` are packs.
  static LIGER_DEVICE RawPack<T> load_channels(const T* x, long long row, int column,
                                               int channels) {
    return load_raw_pack<Channels, aligned(Channels)>(x + (row * Width + column) * Channels,
                                                      channels);
  }
  static LIGER_DEVICE void store_channels(T* y, long long row, int column, int channels,
                                          const RawPack<T>& values) {
    if (Width % pack_size == 0 || column < Width)
      store_raw_pack<Channels, aligned(Channels)>(y + (row * Width + column) * Channels, channels,
                                                  values);
  }
  static LIGER_DEVICE void load_columns(RawPack<T> (&values)[pack_size], const T* x,
                                        long long batch, long long row, int channels, int columns) {
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      const int channel = channels * pack_size + i;
      if (has_channel(channel))
        values[i] = load_raw_pack<Width, aligned(Width)>(x + row_of(batch, row, channel), columns);
    }
  }
  static LIGER_DEVICE void store_columns(T* y, long long batch, long long row, int channels,
                                         int columns, const RawPack<T> (&values)[pack_size]) {
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      const int channel = channels * pack_size + i;
      if (has_channel(channel))
        store_raw_pack<Width, aligned(Width)>(y + row_of(batch, row, channel), columns, values[i]);
    }
  }

 private:
  // What every row of so many elements begins at a multiple of.
  static LIGER_DEVICE constexpr int aligned(int elements) {
    int bytes = AlignBytes;
    while (bytes > 1 && elements * static_cast<int>(sizeof(T)) % bytes != 0) bytes /= 2;
    return bytes;
  }
  // Of one channel in [batch, channels, N, N], the row that is `row` of [batch, N].
  static LIGER_DEVICE long long row_of(long long batch, long long row, int channel) {
    return (row + (batch * (Channels - 1) + channel) * Width) * Width;
  }
  static LIGER_DEVICE bool has_channel(int channel) {
    return Channels % pack_size == 0 || channel < Channels;
  }
};

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
  using Places = TrianglePlaces<T, S.width, S.channels, S.align_bytes>;
  static constexpr int column_packs = Places::column_packs;
  static constexpr int channel_packs = Places::channel_packs;
  static constexpr int neighbours = channel_packs < 8 ? channel_packs : 8;  // 128 bytes of 16 bits
  static constexpr int strips = (channel_packs + neighbours - 1) / neighbours;
  static constexpr int units_of_row = strips * column_packs * neighbours;

  LIGER_DEVICE void turn(long long unit) const {
    // Of unsigned numbers a quotient by a power of two is a shift. From the last row to the first:
    // the last ones are what the kernel before has left in the L2 cache, and the first ones what
    // the kernel after begins with.
    const auto rows_before =
        static_cast<long long>(static_cast<unsigned long long>(unit) / units_of_row);
    if (rows_before >= rows) return;
    const long long row = rows - 1 - rows_before;
    const int place = static_cast<int>(unit - rows_before * units_of_row);
    const int strip = place / (column_packs * neighbours);
    const int channels = strip * neighbours + place % neighbours;
    const int columns = place / neighbours % column_packs;
    if (strips > 1 && channels >= channel_packs) return;
    const auto batch = static_cast<long long>(static_cast<unsigned long long>(row) / S.width);
    const int last = static_cast<int>(row - batch * S.width);
    if constexpr (S.to_channels_last) {
      channels_to_the_end(batch, row, last, channels, columns);
    } else {
      channels_to_the_front(batch, row, last, channels, columns);
    }
  }

  LIGER_DEVICE void channels_to_the_end(long long batch, long long row, int last, int channels,
                                        int columns) const {
    RawPack<T> made[pack_size] = {};
    if (columns * pack_size <= last) {
      RawPack<T> read[pack_size] = {};
      Places::load_columns(read, x, batch, row, channels, columns);
      turned(read, made);
    }
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      const int column = columns * pack_size + i;
      if (column > last) made[i] = {};
      Places::store_channels(y, row, column, channels, made[i]);
    }
  }

  LIGER_DEVICE void channels_to_the_front(long long batch, long long row, int last, int channels,
                                          int columns) const {
    RawPack<T> made[pack_size] = {};
    if (columns * pack_size <= last) {
      RawPack<T> read[pack_size] = {};
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        const int column = columns * pack_size + i;
        // Beyond the diagonal it is read once more, so that no load waits for a branch.
        read[i] = Places::load_channels(x, row, column < last ? column : last, channels);
      }
      if constexpr (S.adds_bias) add_bias(read, channels);
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        if (columns * pack_size + i > last) read[i] = {};
      }
      turned(read, made);
    }
    Places::store_columns(y, batch, row, channels, columns, made);
  }

  LIGER_DEVICE void add_bias(RawPack<T> (&values)[pack_size], int channels) const {
    const auto added = load_pack<S.channels, static_cast<int>(sizeof(T))>(bias, channels);
    LIGER_UNROLL for (RawPack<T>& value : values) value = narrowed<T>(widened(value) + added);
  }
};

struct CausalSoftmaxFromChannelsSpec {
  Dtype x;
  int width;
  int channels;
  int align_bytes;
  int threads;  // they fix the order of the sum
};

// A block has a row of up to eight packs of channels, each of its threads some columns of one pack.
// What the sum has read is read again for the gradient, then from the caches.
template <CausalSoftmaxFromChannelsSpec S>
struct CausalSoftmaxFromChannels {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  using T = Type<S.x>;
  // Some read while others add up.
  static constexpr int blocks_at_once = two_bytes<T> ? 2 : 1;
  using A = Arithmetic<S.x>;

  const T* dy;
  const T* y;
  T* dx;
  long long rows;  // batch * N

  LIGER_DEVICE void operator()(long long block) const {
    // The last row is the longest.
    const long long row = rows - 1 - block / strips;
    const int first = static_cast<int>(block % strips) * neighbours;
    const long long batch = row / S.width;
    const int last = static_cast<int>(row - batch * S.width);
    if constexpr (on_host) {
      for (int i = 0; i < neighbours && first + i < channel_packs; ++i) {
        const auto dot = product(row, last, first + i, 0, 1);
        store_gradient(batch, row, last, first + i, 0, 1, dot);
      }
    } else {
      const int channels = first + thread_index() % neighbours;
      const int lane = thread_index() / neighbours;
      constexpr int lanes = S.threads / neighbours;
      const bool present = channels < channel_packs;
      Pack<A> dot = filled(A(0));
      if (present) dot = product(row, last, channels, lane, lanes);
      dot = over_the_block(dot);
      if (present) store_gradient(batch, row, last, channels, lane, lanes, dot);
    }
  }

 private:
  using Places = TrianglePlaces<T, S.width, S.channels, S.align_bytes>;
  static constexpr int channel_packs = Places::channel_packs;
  static constexpr int neighbours =
      power_of_two_from(channel_packs) < 8 ? power_of_two_from(channel_packs) : 8;
  static constexpr int strips = (channel_packs + neighbours - 1) / neighbours;

  // Of the columns from `first` on, `step` apart.
  LIGER_DEVICE Pack<A> product(long long row, int last, int channels, int first, int step) const {
    Pack<A> sum = filled(A(0));
    LIGER_UNROLL_BY(4) for (int column = first; column <= last; column += step) {
      sum = fused(widened(Places::load_channels(y, row, column, channels)),
                  widened(Places::load_channels(dy, row, column, channels)), sum);
    }
    return sum;
  }

  // The sum over the threads that have the same channels.
  static LIGER_DEVICE Pack<A> over_the_block(Pack<A> sum) {
    constexpr int teams = on_host ? 1 : S.threads / team_lanes;
    LIGER_SHARED A of_teams[teams][neighbours][pack_size];
    const int neighbour = thread_index() % neighbours;
    LIGER_UNROLL for (int mask = team_lanes / 2; mask >= neighbours; mask /= 2) {
      sum = sum + map([mask](A one) { return shuffle_xor(one, mask); }, sum);
    }
    if (thread_index() % team_lanes < neighbours) {
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i)
          of_teams[thread_index() / team_lanes][neighbour][i] = sum.v[i];
    }
    barrier();
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) sum.v[i] = of_teams[0][neighbour][i];
    LIGER_UNROLL for (int team = 1; team < teams; ++team) {
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) sum.v[i] += of_teams[team][neighbour][i];
    }
    return sum;
  }

  LIGER_DEVICE void store_gradient(long long batch, long long row, int last, int channels,
                                   int first, int step, const Pack<A>& dot) const {
    LIGER_UNROLL_BY(1) for (int columns = first; columns < Places::column_packs; columns += step) {
      RawPack<T> made[pack_size] = {};
      if (columns * pack_size <= last) {
        RawPack<T> gradient[pack_size] = {};
        LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
          const int column = columns * pack_size + i;
          const int there = column < last ? column : last;
          gradient[i] =
              narrowed<T>(map([](A p, A d, A dot) { return p * (d - dot); },
                              widened(Places::load_channels(y, row, there, channels)),
                              widened(Places::load_channels(dy, row, there, channels)), dot));
          if (column > last) gradient[i] = {};
        }
        turned(gradient, made);
      }
      Places::store_columns(dx, batch, row, channels, columns, made);
    }
  }
};

}  // namespace liger
