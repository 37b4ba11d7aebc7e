// y = (x - mean) * rstd * weight + bias for [batch, channels, ...]: the statistics are those of a
// group of channels and all that comes after them, weight and bias are a number a channel. The
// variance is that of the deviations.
#pragma once
#include "device/channel_group.h"

namespace liger {

struct GroupNormForwardSpec {
  Dtype x;
  Dtype weight;
  Dtype bias;
  bool has_weight;
  bool has_bias;
  int channels;  // of a group
  int inner;     // elements of a channel
  int align_bytes;
  bool hold;    // tuned, as what follows: the group is kept in registers
  int threads;  // of a channel
  int rows;     // channels of a block at a time
  int cluster;  // blocks of a group
};

template <GroupNormForwardSpec S>
struct GroupNormForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr long long size = static_cast<long long>(S.channels) * S.inner;
  using A = Arithmetic<S.x>;
  using Group = GroupOf<S.channels, S.inner, S.threads, S.rows, S.cluster, S.hold>;
  using Share = GroupShare<Group, S.inner, S.align_bytes, S.hold, Type<S.x>>;

  const Type<S.x>* x;
  const Type<S.weight>* weight;
  const Type<S.bias>* bias;
  Type<S.x>* y;
  A* mean;
  A* rstd;  // null: not kept
  long long groups;
  double eps;

  LIGER_DEVICE void operator()(long long block) const {
    const Group group(block);
    const long long index = block / S.cluster;
    const Share values(group, x + index * size);
    const A sum = group.template sum<A>(
        true,
        [&](int turn, int slot, int channel, int pack) {
          return values.at(turn, slot, channel, pack);
        },
        AsItIs{});
    const A m = sum * A(1.0 / size);
    const auto deviations = group.template sum<Two<A>>(
        false,
        [&](int turn, int slot, int channel, int pack) {
          const auto d =
              without_missing<S.inner>(pack, values.at(turn, slot, channel, pack) + (-m));
          return liger::both(part_of_sum(d), part_of_sum(d * d));
        },
        AsItIs{});
    // What the rounding of the mean left: far from zero it is as large as the deviations' last
    // digits.
    const A rest = deviations.first * A(1.0 / size);
    const A variance = deviations.second * A(1.0 / size) - rest * rest;
    const A r = reciprocal_root(variance + A(eps));
    const int first_channel = static_cast<int>(index % groups) * S.channels;
    const auto affine = [&](int channel) {
      A scale = r;
      A shift = 0;
      if constexpr (S.has_weight)
        scale = r * static_cast<A>(widen(weight[first_channel + channel]));
      if constexpr (S.has_bias) shift = static_cast<A>(widen(bias[first_channel + channel]));
      return Two<A>{scale, shift};
    };
    group.each_pack(affine, [&](int turn, int slot, int channel, int pack, Two<A> of_channel) {
      const auto d = values.at(turn, slot, channel, pack) + (-m) + (-rest);
      store_pack<S.inner, S.align_bytes>(
          y + index * size + static_cast<long long>(channel) * S.inner, pack,
          fused(d, filled(of_channel.first), filled(of_channel.second)));
    });
    if (group.rank == 0 && thread_index() == 0 && rstd) {
      mean[index] = m + rest;
      rstd[index] = r;
    }
  }
};

template <GroupNormForwardSpec S>
constexpr int cluster_of<GroupNormForward<S>> = S.cluster;
template <GroupNormForwardSpec S>
constexpr int resident_of<GroupNormForward<S>> =
    resident_groups<GroupNormForward<S>, Type<S.x>, 1, S.hold>();

struct GroupNormBackwardSpec {
  Dtype x;
  Dtype weight;
  bool has_weight;
  bool want_dx;
  bool want_dweight;
  bool want_dbias;
  int channels;
  int inner;
  int align_bytes;
  bool hold;  // tuned, as what follows
  int threads;
  int rows;
  int cluster;
};

// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * weight, and of each batch entry
// and channel the sums of dy * xhat and of dy.
template <GroupNormBackwardSpec S>
struct GroupNormBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static constexpr long long size = static_cast<long long>(S.channels) * S.inner;
  using A = Arithmetic<S.x>;
  using Group = GroupOf<S.channels, S.inner, S.threads, S.rows, S.cluster, S.hold>;
  using Share = GroupShare<Group, S.inner, S.align_bytes, S.hold, Type<S.x>>;

  const Type<S.x>* dy;
  const Type<S.x>* x;
  const Type<S.weight>* weight;
  const A* mean;
  const A* rstd;
  Type<S.x>* dx;
  A* weight_partials;  // [batch, padded(all channels)]
  A* bias_partials;
  long long groups;
  long long partial_stride;

  LIGER_DEVICE A weight_of(int channel) const {
    if constexpr (S.has_weight) return static_cast<A>(widen(weight[channel]));
    return A(1);
  }

  LIGER_DEVICE void operator()(long long block) const {
    const Group group(block);
    const long long index = block / S.cluster;
    const Share ds(group, dy + index * size);
    const Share values(group, x + index * size);
    const A m = mean[index];
    const A r = rstd[index];
    const int first_channel = static_cast<int>(index % groups) * S.channels;
    const long long partial = index / groups * partial_stride + first_channel;
    // Past a channel's end dy is zero.
    const auto sums = group.template sum<Two<A>>(
        true,
        [&](int turn, int slot, int channel, int pack) {
          const auto d = ds.at(turn, slot, channel, pack);
          return liger::both(part_of_sum(d),
                             part_of_sum(d * (values.at(turn, slot, channel, pack) + (-m))));
        },
        [&](int channel, const Two<A>& sum) {
          const A of_xhat = sum.second * r;
          if constexpr (S.want_dweight) weight_partials[partial + channel] = of_xhat;
          if constexpr (S.want_dbias) bias_partials[partial + channel] = sum.first;
          const A w = weight_of(first_channel + channel);
          return Two<A>{w * sum.first, w * of_xhat};
        });
    if constexpr (S.want_dx) {
      const A of_all = -r * sums.first * A(1.0 / size);
      const A of_deviation = -r * r * sums.second * A(1.0 / size);
      const auto scale_of = [&](int channel) { return r * weight_of(first_channel + channel); };
      group.each_pack(scale_of, [&](int turn, int slot, int channel, int pack, A scale) {
        const auto made = [&](const Pack<A>& d, const Pack<A>& v) {
          if constexpr (on_host)
            return fused(v + (-m), filled(of_deviation), fused(d, filled(scale), filled(of_all)));
          return map([&](A d, A v) { return fused(v - m, of_deviation, fused(d, scale, of_all)); },
                     d, v);
        };
        store_pack<S.inner, S.align_bytes>(
            dx + index * size + static_cast<long long>(channel) * S.inner, pack,
            made(ds.at(turn, slot, channel, pack), values.at(turn, slot, channel, pack)));
      });
    }
  }
};

template <GroupNormBackwardSpec S>
constexpr int cluster_of<GroupNormBackward<S>> = S.cluster;
template <GroupNormBackwardSpec S>
constexpr int resident_of<GroupNormBackward<S>> =
    resident_groups<GroupNormBackward<S>, Type<S.x>, 2, S.hold>();

}  // namespace liger
