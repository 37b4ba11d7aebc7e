// A group of channels, each a row of `Inner` elements, over the blocks of a cluster.
#pragma once
#include "device/row.h"
#include "device/sm90/cluster.h"

namespace liger {

// How the blocks of a cluster share a group: each has channels of its own, `Rows` at a time with
// `Threads` threads each. What sums give depends on none of these.
template <int Channels, int Inner, int Threads, int Rows, int Blocks, bool Hold>
struct GroupOf {
  using Row = RowOf<Inner, Threads, Rows, Hold>;
  static constexpr int of_block = Channels / Blocks;
  static constexpr int turns = (of_block + Rows - 1) / Rows;
  static constexpr int unrolled = Hold ? turns : 1;
  static constexpr int places = Channels < 1024 ? Channels : 1024;
  static_assert(Channels % Blocks == 0, "blocks of a group");
  static_assert(Channels == places || (Blocks == 1 && places % Rows == 0),
                "who adds to a place is one thread");

  const int rank;
  const int row;     // of the block's rows
  const int thread;  // of the row

  LIGER_DEVICE explicit GroupOf(long long block)
      : rank(static_cast<int>(block % Blocks)),
        row(on_host || Rows == 1 ? 0 : thread_index() / Threads),
        thread(Rows == 1 ? thread_index() : thread_index() % Threads) {
    cluster_arrive<Blocks>();
  }

  // f(turn, channel of the group, active) for the channels of this thread's row. One past the end
  // goes along inactive, because barriers are for all.
  template <class F>
  LIGER_DEVICE void each_channel(F&& f) const {
    LIGER_UNROLL_BY(unrolled) for (int turn = 0; turn < turns; ++turn) {
      const int place = turn * Rows + row;
      const bool active = place < of_block;
      f(turn, rank * of_block + (active ? place : of_block - 1), active);
    }
  }

  // f(turn, slot, channel, pack) for all packs of this thread.
  template <class F>
  LIGER_DEVICE void each_pack(F&& f) const {
    each_channel([&](int turn, int channel, bool active) {
      if (!active) return;
      Row::each(thread, [&](int slot, int pack) { f(turn, slot, channel, pack); });
    });
  }

  // The same with of_channel(channel) as f's last argument; the host makes it once for a channel.
  template <class OfChannel, class F>
  LIGER_DEVICE void each_pack(OfChannel&& of_channel, F&& f) const {
    if constexpr (on_host) {
      each_channel([&](int turn, int channel, bool) {
        const auto made = of_channel(channel);
        Row::each(thread, [&](int slot, int pack) { f(turn, slot, channel, pack, made); });
      });
    } else {
      each_pack([&](int turn, int slot, int channel, int pack) {
        f(turn, slot, channel, pack, of_channel(channel));
      });
    }
  }

  // Adds the elements of f(turn, slot, channel, pack) over each channel, then of_channel(channel,
  // that sum), which one thread alone evaluates, over the group; every thread gets it. Once for
  // each V; `first` of all or not.
  template <class V, class F, class OfChannel>
  LIGER_DEVICE V sum(bool first, F&& f, OfChannel&& of_channel) const {
    LIGER_SHARED Place<V> sums[places];
    if (first) cluster_wait<Blocks>();  // the other blocks have begun
    each_channel([&](int turn, int channel, bool active) {
      const V made = Row::template sum_of_elements<V>(
          turn % 2, thread, [&](int slot, int pack) { return f(turn, slot, channel, pack); });
      if (thread != 0 || !active) return;
      V value = of_channel(channel, made);
      if (channel >= places) value = sums[channel % places].get() + value;
      LIGER_UNROLL for (int block = 0; block < Blocks; ++block) {
        liger::of_block<Blocks>(sums[channel % places], block).put(value);
      }
    });
    cluster_barrier<Blocks>();
    V result{};
    if constexpr (on_host) {
      for (int i = 0; i < places; ++i) result = result + sums[i].get();
      return result;
    } else {
      for (int i = thread_index() % team_lanes; i < places; i += team_lanes) {
        result = result + sums[i].get();
      }
      return meet_by_shuffles<team_lanes>(result, Add{});
    }
  }
};

// What a thread has of a group: read once and kept in registers, or read anew at each use.
template <class Group, int Inner, int AlignBytes, bool Hold, class T>
class GroupShare {
 public:
  using A = typename ArithmeticOf<T>::Type;
  LIGER_DEVICE GroupShare(const Group& group, const T* of_group) : of_group_(of_group) {
    if constexpr (Hold) {
      group.each_channel([&](int turn, int channel, bool) {
        Group::Row::each(group.thread, [&](int slot, int pack) {
          packs_[turn][slot] = load_raw_pack<Inner, AlignBytes>(channel_at(channel), pack);
        });
      });
    }
  }
  LIGER_DEVICE Pack<A> at(int turn, int slot, int channel, int pack) const {
    if constexpr (Hold) return widened(anew(packs_[turn][slot]));
    return load_pack<Inner, AlignBytes>(channel_at(channel), pack);
  }

 private:
  LIGER_DEVICE const T* channel_at(int channel) const {
    return of_group_ + static_cast<long long>(channel) * Inner;
  }
  const T* of_group_;
  RawPack<T> packs_[Hold ? Group::turns : 1][Hold ? Group::Row::slots : 1];
};

// A channel's sum counts as it is.
struct AsItIs {
  template <class V>
  LIGER_DEVICE V operator()(int, const V& sum) const {
    return sum;
  }
};

// Blocks of a kernel on a multiprocessor: the registers of a thread should be for packs on their
// way, not for what is made of them between sums and stores.
template <class Kernel, class T, int Tensors, bool Hold>
LIGER_DEVICE constexpr int resident_groups() {
  using Group = typename Kernel::Group;
  constexpr int held = Hold ? Group::turns * Group::Row::slots * Tensors * 2 * sizeof(T) : 0;
  constexpr int threads = held > 32 ? 512 : 768;
  return Hold && Kernel::block_threads <= threads ? threads / Kernel::block_threads : 1;
}

}  // namespace liger
