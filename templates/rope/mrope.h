// Rotary embedding of tokens that have three positions, in time, height and width: each pair of
// columns turns by the angle of one of them.
#pragma once
#include "device/rotary.h"

namespace liger {

struct MRopeSpec {
  Dtype x;
  bool inverse;
  bool interleaved;
  int head_size;
  int rotary;
  int q_heads;
  int k_heads;
  int align_bytes;
  Dtype angle;   // of cos and sin
  int temporal;  // pairs that turn by the first position
  int height;    // by the second; the rest by the third
  int width;
  bool interleaved_sections;  // height has pairs 1, 4, 7 ..., width 2, 5, 8 ..., time the others
  int threads;                // tuned
  int tokens;                 // tuned; of one block
  int heads;                  // tuned; of one block
};

// A token's row of one table, in each of its three axes.
template <MRopeSpec S>
struct MRopeRow {
  using A = Arithmetic<S.x>;
  using Places = RotaryPlaces<S>;
  // Sections end where packs do: a pack is read from the one axis that it has.
  static constexpr bool one_axis =
      Places::step == 1 ||
      (!S.interleaved_sections && S.temporal % pack_size == 0 && S.height % pack_size == 0);

  const Type<S.angle>* row;
  long long axis_stride;

  LIGER_DEVICE Pack<A> angles(int column) const {
    const int pair = column < Places::half ? column : column - Places::half;
    const auto* const from = row + column;
    if constexpr (one_axis) return Places::angles(from + axis_of(pair) * axis_stride);
    const Pack<A> in_time = Places::angles(from);
    const Pack<A> in_height = Places::angles(from + axis_stride);
    const Pack<A> in_width = Places::angles(from + 2 * axis_stride);
    Pack<A> result;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      const int axis = axis_of(pair + i);
      result.v[i] = axis == 0 ? in_time.v[i] : (axis == 1 ? in_height.v[i] : in_width.v[i]);
    }
    return result;
  }

 private:
  static LIGER_DEVICE int axis_of(int pair) {
    if constexpr (S.interleaved_sections) {
      const int axis = pair % 3;
      return pair < 3 * (axis == 1 ? S.height : S.width) ? axis : 0;
    }
    return pair < S.temporal ? 0 : (pair < S.temporal + S.height ? 1 : 2);
  }
};

template <MRopeSpec S>
struct MRopeAngles {
  MRopeRow<S> cos_row;
  MRopeRow<S> sin_row;
  LIGER_DEVICE auto cos(int column) const { return cos_row.angles(column); }
  LIGER_DEVICE auto sin(int column) const { return sin_row.angles(column); }
};

template <MRopeSpec S>
struct MRope {
  static constexpr int block_threads = RotaryHeads<S>::block_threads;

  RotaryHeads<S> heads;
  const Type<S.angle>* cos;
  const Type<S.angle>* sin;
  long long cos_strides[3];  // of axis, batch, token
  long long sin_strides[3];

  LIGER_DEVICE void operator()(long long block) const {
    heads.turn(block, [&](long long b, long long t) {
      return MRopeAngles<S>{{cos + b * cos_strides[1] + t * cos_strides[2], cos_strides[0]},
                            {sin + b * sin_strides[1] + t * sin_strides[2], sin_strides[0]}};
    });
  }
};

}  // namespace liger
