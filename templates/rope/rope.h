// Rotary embedding by tables of cos and sin: one row a token, or rows that are found by position.
#pragma once
#include "device/fault.h"
#include "device/rotary.h"

namespace liger {

struct RopeSpec {
  Dtype x;
  bool inverse;
  bool interleaved;
  int head_size;
  int rotary;
  int q_heads;
  int k_heads;
  int align_bytes;
  Dtype angle;       // of cos and sin
  bool half_tables;  // one angle for each pair, else one for each column
  int threads;       // tuned
  int tokens;        // tuned; of one block
  int heads;         // tuned; of one block
};
using RopeByPositionSpec = RopeSpec;

// The angles of one token.
template <RopeSpec S>
struct RopeAngles {
  using A = Arithmetic<S.x>;
  using Places = RotaryPlaces<S>;

  const Type<S.angle>* cos_row;
  const Type<S.angle>* sin_row;

  LIGER_DEVICE Pack<A> cos(int column) const { return of(cos_row, column); }
  LIGER_DEVICE Pack<A> sin(int column) const { return of(sin_row, column); }

 private:
  static LIGER_DEVICE Pack<A> of(const Type<S.angle>* row, int column) {
    if constexpr (S.half_tables && S.interleaved) {
      constexpr int pairs = Places::step / 2;
      const auto one_each =
          Places::in_arithmetic(widened(load_raw<S.align_bytes, true, pairs>(row + column / 2)));
      Pack<A> result;
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) result.v[i] = one_each.v[i / 2];
      return result;
    }
    // The second half turns by the angles of the first.
    return Places::angles(
        row + (S.half_tables && column >= Places::half ? column - Places::half : column));
  }
};

template <RopeSpec S>
struct Rope {
  static constexpr int block_threads = RotaryHeads<S>::block_threads;

  RotaryHeads<S> heads;
  const Type<S.angle>* cos;
  const Type<S.angle>* sin;
  long long cos_strides[2];  // of batch, token
  long long sin_strides[2];

  LIGER_DEVICE void operator()(long long block) const {
    heads.turn(block, [&](long long b, long long t) {
      return RopeAngles<S>{cos + b * cos_strides[0] + t * cos_strides[1],
                           sin + b * sin_strides[0] + t * sin_strides[1]};
    });
  }
};

template <RopeByPositionSpec S>
struct RopeByPosition {
  static constexpr int block_threads = RotaryHeads<S>::block_threads;

  RotaryHeads<S> heads;
  const Type<S.angle>* cos;  // [positions, angles]
  const Type<S.angle>* sin;
  const long long* position_ids;
  long long cos_stride;
  long long sin_stride;
  long long position_ids_stride;  // of batch
  long long positions;
  InputFault fault;

  LIGER_DEVICE void operator()(long long block) const {
    heads.turn(block, [&](long long b, long long t) {
      const long long place = b * position_ids_stride + t;
      long long position = position_ids[place];
      if (position < 0 || position >= positions) {
        record_fault(fault, place, position, positions);
        position = 0;
      }
      return RopeAngles<S>{cos + position * cos_stride, sin + position * sin_stride};
    });
  }
};

}  // namespace liger
