// Copies from global to shared memory, which need no registers on the way where the hardware can.
#pragma once
#include "device/pack.h"

namespace liger {

#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 800
constexpr bool copies_alone = true;
#else
constexpr bool copies_alone = false;
#endif

// 16 bytes, for this thread to read after wait_for_copies(). `from` is `AlignBytes` aligned.
template <int AlignBytes>
LIGER_DEVICE void copy_to_shared(void* to, const void* from) {
#if defined(LIGER_HOST)
  copy_bytes(to, from, 16);
#else
#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 800
  if constexpr (AlignBytes >= 16) {
    const auto address = static_cast<unsigned int>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :
                 : "r"(address), "l"(from)
                 : "memory");
    return;
  }
#endif
  using Word = typename WordOf<word_bytes(AlignBytes, 2)>::Type;
  LIGER_UNROLL for (int i = 0; i < static_cast<int>(16 / sizeof(Word)); ++i) {
    static_cast<Word*>(to)[i] = static_cast<const Word*>(from)[i];
  }
#endif
}

// 16 bytes of shared memory.
LIGER_DEVICE void read_shared(void* to, const void* from) {
#if defined(LIGER_HOST)
  copy_bytes(to, from, 16);
#else
  const uint4 four = *static_cast<const uint4*>(from);
  copy_bytes(to, &four, 16);
#endif
}

LIGER_DEVICE void wait_for_copies() {
#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

// What this thread has asked for since the last group is a group.
LIGER_DEVICE void end_group_of_copies() {
#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}
// Waits for all groups but the last.
LIGER_DEVICE void wait_for_copies_before_the_last_group() {
#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group 1;" : : : "memory");
#endif
}

}  // namespace liger
