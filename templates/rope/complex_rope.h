// Rotary embedding by complex factors: neighbours x[2i] + j x[2i + 1] are multiplied with f[i].
#pragma once
#include "device/rotary.h"

namespace liger {

struct ComplexRopeSpec {
  Dtype x;
  bool inverse;
  bool interleaved;
  int head_size;
  int rotary;
  int q_heads;
  int k_heads;
  int align_bytes;
  Dtype angle;  // of the parts of a factor
  int threads;  // tuned
  int tokens;   // tuned; of one block
  int heads;    // tuned; of one block
};

// The factors of one token, real and imaginary parts side by side: as many as it has columns.
template <ComplexRopeSpec S>
struct ComplexFactors {
  using A = Arithmetic<S.x>;
  static_assert(S.interleaved, "a factor turns neighbours");

  const Type<S.angle>* row;

  LIGER_DEVICE Pack<A> cos(int column) const { return parts<0>(column); }
  LIGER_DEVICE Pack<A> sin(int column) const { return parts<1>(column); }

 private:
  template <int Part>
  LIGER_DEVICE Pack<A> parts(int column) const {
    const Pack<A> both = RotaryPlaces<S>::angles(row + column);
    Pack<A> result;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) result.v[i] = both.v[i / 2 * 2 + Part];
    return result;
  }
};

template <ComplexRopeSpec S>
struct ComplexRope {
  static constexpr int block_threads = RotaryHeads<S>::block_threads;

  RotaryHeads<S> heads;
  const Type<S.angle>* freqs;
  long long freqs_strides[2];  // of batch, token

  LIGER_DEVICE void operator()(long long block) const {
    heads.turn(block, [&](long long b, long long t) {
      return ComplexFactors<S>{freqs + b * freqs_strides[0] + t * freqs_strides[1]};
    });
  }
};

}  // namespace liger
