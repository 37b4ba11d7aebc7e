// Products of small tiles in the registers of a warp, by the matrix units of sm_80 and later.
//
// Of 16 x 16 elements of two bytes a lane has four words: with g = lane / 4 and t = lane % 4 the
// elements 2t and 2t + 1 of row g, of row g + 8, and the same of columns 8 to 15. Of 16 x 8 sums it
// has those of columns 2t and 2t + 1 of row g, then of row g + 8.
#pragma once
#include "device/dtype.h"

namespace liger {

#if defined(LIGER_CUDA)

// sums += a (16 x 16) * b (16 x 8); a lane's words of b: rows 2t and 2t + 1 of column g, then those
// of rows 8 to 15.
LIGER_DEVICE void multiply_tile(float (&sums)[4], const unsigned int (&a)[4], unsigned int b0,
                                unsigned int b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of half the depth.
LIGER_DEVICE void multiply_half_tile(float (&sums)[4], unsigned int a0, unsigned int a1,
                                     unsigned int b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(b));
}

// The lane's word of the 8 x 8 tile with rows and columns exchanged.
LIGER_DEVICE unsigned int transposed_tile(unsigned int word) {
  unsigned int turned;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(word));
  return turned;
}

#endif

LIGER_DEVICE unsigned int word_of(bf16 first, bf16 second) {
  return first.bits | static_cast<unsigned int>(second.bits) << 16;
}
LIGER_DEVICE float first_of(unsigned int word) { return bits_as<float>(word << 16); }
LIGER_DEVICE float second_of(unsigned int word) { return bits_as<float>(word & 0xffff0000u); }

// Numbers of two bytes whose sum is a value: one of a bf16, two of an f16, three of a float.
template <class T>
constexpr int bf16_parts = sizeof(T) == 4 ? 3 : 2;
template <>
constexpr int bf16_parts<bf16> = 1;

// words[i] has the i-th parts of both values; the last is what is left, rounded.
template <int Parts>
LIGER_DEVICE void split_into_bf16(float first, float second, unsigned int (&words)[Parts]) {
  LIGER_UNROLL for (int i = 0; i < Parts; ++i) {
    words[i] = word_of(narrow<bf16>(first), narrow<bf16>(second));
    first -= first_of(words[i]);
    second -= second_of(words[i]);
  }
}

}  // namespace liger
