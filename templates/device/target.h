// The only file that knows compilers. On a GPU a block is its threads; on the host a block is one
// thread, so barriers and shuffles vanish and every template's maths runs without a GPU.
#pragma once

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#define LIGER_CUDA 1
#elif defined(__HIPCC_RTC__) || defined(__HIP__)
#define LIGER_HIP 1
#else
#define LIGER_HOST 1
#endif

// A member of a kernel stands where a launch writes it. NVRTC before CUDA 13 knows no offsets.
#if __has_builtin(__builtin_offsetof)
#define LIGER_STANDS_AT(KERNEL, MEMBER, OFFSET) (__builtin_offsetof(KERNEL, MEMBER) == (OFFSET))
#else
#define LIGER_STANDS_AT(KERNEL, MEMBER, OFFSET) true
#endif
#define LIGER_MEMBER(KERNEL, SPEC, MEMBER, OFFSET, BYTES)                                  \
  static_assert(LIGER_STANDS_AT(liger::KERNEL<SPEC>, MEMBER, OFFSET) &&                    \
                    sizeof(static_cast<liger::KERNEL<SPEC>*>(nullptr)->MEMBER) == (BYTES), \
                "the arguments of " #KERNEL " are declared otherwise at its member " #MEMBER);
#define LIGER_SIZE(KERNEL, SPEC, BYTES)                                               \
  static_assert(sizeof(liger::KERNEL<SPEC>) - (BYTES) < alignof(liger::KERNEL<SPEC>), \
                "the arguments of " #KERNEL " are declared fewer or more than its members");

#if defined(LIGER_HOST)

#define LIGER_DEVICE inline __attribute__((always_inline))
#define LIGER_SHARED
#define LIGER_UNROLL  // clang would unroll a whole row for the one thread of the host
#define LIGER_UNROLL_BY(COUNT)
// Of a pack. GCC makes a vector of a loop, branches and all, but not always of what it has
// unrolled.
#if defined(__clang__)
#define LIGER_EACH_ELEMENT
#else
#define LIGER_EACH_ELEMENT _Pragma("GCC unroll 1")
#endif
#define LIGER_ENTRY(KERNEL, SPEC)                                                   \
  extern "C" __attribute__((visibility("default"))) void liger_##KERNEL(            \
      const void* arguments, long long first_block, long long last_block) {         \
    const auto kernel = *static_cast<const liger::KERNEL<SPEC>*>(arguments);        \
    for (long long block = first_block; block < last_block; ++block) kernel(block); \
  }

#else

#define LIGER_DEVICE __device__ __forceinline__
#define LIGER_SHARED __shared__
#define LIGER_UNROLL _Pragma("unroll")
#define LIGER_EACH_ELEMENT LIGER_UNROLL
#define LIGER_PRAGMA(TEXT) _Pragma(#TEXT)
#define LIGER_UNROLL_BY(COUNT) LIGER_PRAGMA(unroll COUNT)
#if defined(LIGER_CUDA)
#define LIGER_BOUNDS(KERNEL) \
  __launch_bounds__(KERNEL::block_threads, liger::blocks_at_once<KERNEL>())
#define LIGER_IN_PLACE __grid_constant__  // an address in the argument is that of the launch's
#else
#define LIGER_BOUNDS(KERNEL) __launch_bounds__(KERNEL::block_threads, 1)
#define LIGER_IN_PLACE
#endif
#define LIGER_ENTRY(KERNEL, SPEC)                                       \
  extern "C" __global__ void LIGER_BOUNDS(liger::KERNEL<SPEC>)          \
      liger_##KERNEL(const LIGER_IN_PLACE liger::KERNEL<SPEC> kernel) { \
    liger::wait_for_kernel_before();                                    \
    kernel(static_cast<long long>(blockIdx.x));                         \
  }

#endif

namespace liger {

// Blocks that a multiprocessor should have registers for at once: a kernel's own `blocks_at_once`,
// or one.
template <class Kernel>
LIGER_DEVICE constexpr int blocks_at_once() {
  return 1;
}
template <class Kernel>
requires(Kernel::blocks_at_once > 0) LIGER_DEVICE constexpr int blocks_at_once() {
  return Kernel::blocks_at_once;
}

#if defined(LIGER_CUDA)
constexpr bool on_host = false;
constexpr int warp_threads = 32;
#elif defined(LIGER_HIP)
constexpr bool on_host = false;
constexpr int warp_threads = __AMDGCN_WAVEFRONT_SIZE;
#else
constexpr bool on_host = true;
constexpr int warp_threads = 1;
#endif

LIGER_DEVICE int thread_index() {
#if defined(LIGER_HOST)
  return 0;
#else
  return static_cast<int>(threadIdx.x);
#endif
}

// From sm_90 on a kernel is started while the one before it in the stream still ends: its blocks
// take the places that the other's leave, and wait here until what that one wrote can be read.
LIGER_DEVICE void wait_for_kernel_before() {
#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 900
  asm volatile(
      "griddepcontrol.launch_dependents;\n"
      "griddepcontrol.wait;" ::
          : "memory");
#endif
}

// What the compiler may rely on.
LIGER_DEVICE void assume([[maybe_unused]] bool holds) {
#if !defined(LIGER_HOST)
  __builtin_assume(holds);
#endif
}

// Shared memory whose size the launch says.
LIGER_DEVICE unsigned char* shared_of_launch() {
#if defined(LIGER_HOST)
  return nullptr;
#else
  extern __shared__ uint4 liger_shared[];
  return reinterpret_cast<unsigned char*>(liger_shared);
#endif
}

// All threads of the block meet here.
LIGER_DEVICE void barrier() {
#if !defined(LIGER_HOST)
  __syncthreads();
#endif
}

// The value of the lane whose index differs by `mask`.
template <class Value>
LIGER_DEVICE Value shuffle_xor(Value value, int mask) {
#if defined(LIGER_CUDA)
  return __shfl_xor_sync(0xffffffffu, value, mask);
#elif defined(LIGER_HIP)
  return __shfl_xor(value, mask);
#else
  (void)mask;
  return value;
#endif
}

// Changes `*word` from `from` to `to`; true for the one thread of this device that did. The host
// may look on: its memory takes no atomic of the system's scope on most machines.
LIGER_DEVICE bool take(long long* word, long long from, long long to) {
#if defined(LIGER_HOST)
  return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
#else
  using Word = unsigned long long;
  const Word expected = static_cast<Word>(from);
  return atomicCAS(reinterpret_cast<Word*>(word), expected, static_cast<Word>(to)) == expected;
#endif
}

// Sets `*word`; whoever sees it, the host too, sees what this thread wrote before.
LIGER_DEVICE void publish(long long* word, long long value) {
#if defined(LIGER_HOST)
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
#else
  __threadfence_system();
  *static_cast<volatile long long*>(word) = value;
#endif
}

LIGER_DEVICE void copy_bytes(void* to, const void* from, int bytes) {
#if defined(LIGER_CUDA)
  memcpy(to, from, bytes);  // NVRTC knows the functions of C, but no __builtin_ names
#else
  __builtin_memcpy(to, from, static_cast<decltype(sizeof(0))>(bytes));
#endif
}

template <class To, class From>
LIGER_DEVICE To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bits_as needs equal sizes");
  To to;
  copy_bytes(&to, &from, sizeof(To));
  return to;
}

}  // namespace liger
