// Products of four signed bytes in a word.
#pragma once
#include "device/target.h"

namespace liger {

// sum + a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3
LIGER_DEVICE int dot_of_bytes(int a, int b, int sum) {
#if defined(LIGER_CUDA)
  int result;
  asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  return result;
#else
  for (int i = 0; i < 32; i += 8) {
    sum += static_cast<signed char>(a >> i) * static_cast<signed char>(b >> i);
  }
  return sum;
#endif
}

}  // namespace liger
