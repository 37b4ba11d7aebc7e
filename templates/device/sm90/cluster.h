// A cluster: neighbouring blocks of the grid that run at once and write into each other's shared
// memory. NVIDIA has them from sm_90 on; elsewhere a cluster is one block.
#pragma once
#include "device/reduce.h"

namespace liger {

// How many blocks make a cluster of a kernel, and how many are to fit on a multiprocessor. Kernels
// that care specialise them.
template <class Kernel>
constexpr int cluster_of = 1;
template <class Kernel>
constexpr int resident_of = 1;

// As many as make so many threads, of a kernel that holds up to so many packs of a row: registers
// should be for packs on their way, not for what is made of them.
template <class Kernel, int Threads, int MostSlots, bool Hold>
LIGER_DEVICE constexpr int resident_rows() {
  const bool fits = Hold && Kernel::Row::slots <= MostSlots && Kernel::block_threads <= Threads;
  return fits ? Threads / Kernel::block_threads : 1;
}

#if !defined(LIGER_HOST)
#undef LIGER_BOUNDS
#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 900
#define LIGER_BOUNDS(KERNEL)                  \
  __cluster_dims__(liger::cluster_of<KERNEL>) \
      __launch_bounds__(KERNEL::block_threads, liger::resident_of<KERNEL>)
#elif defined(LIGER_CUDA)
#define LIGER_BOUNDS(KERNEL) __launch_bounds__(KERNEL::block_threads, liger::resident_of<KERNEL>)
#else  // HIP counts something else there
#define LIGER_BOUNDS(KERNEL) __launch_bounds__(KERNEL::block_threads)
#endif
#endif

// A barrier of all threads of the cluster, in two halves: what is written before the first half is
// seen by all after the second.
template <int Blocks>
LIGER_DEVICE void cluster_arrive() {
#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 900
  if constexpr (Blocks > 1) asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
template <int Blocks>
LIGER_DEVICE void cluster_wait() {
#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 900
  if constexpr (Blocks > 1) asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
template <int Blocks>
LIGER_DEVICE void cluster_barrier() {
  if constexpr (Blocks == 1) {
    barrier();
  } else {
    cluster_arrive<Blocks>();
    cluster_wait<Blocks>();
  }
}

// What `place`, in this block's shared memory, is in that of another block of the cluster.
template <int Blocks, class P>
LIGER_DEVICE P& of_block(P& place, int block) {
#if defined(LIGER_CUDA) && __CUDA_ARCH__ >= 900
  if constexpr (Blocks > 1) {
    unsigned long long address;
    asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(&place), "r"(block));
    return *reinterpret_cast<P*>(address);
  }
#endif
  (void)block;
  return place;
}

// Combines one value of each thread of the cluster, in any order: for what no order changes. After
// cluster_arrive() at the kernel's beginning: the other blocks must have begun. `use`: how often it
// was called before with `Again`, which is for all calls but a kernel's first.
template <int Threads, int Blocks, bool Again = false, class V, class Combine>
LIGER_DEVICE V across_cluster(V value, int rank, Combine combine, int use = 0) {
  constexpr int warps = Threads / warp_threads;
  constexpr int count = Blocks * warps;
  constexpr int lanes = count < warp_threads ? count : warp_threads;
  // In turn: who writes for the next use has seen that all have read for the last but one.
  LIGER_SHARED Place<V> of_warps[Again ? 2 : 1][count];
  auto& of_warp = of_warps[Again ? use % 2 : 0];
  const int lane = thread_index() % warp_threads;
  value = meet_by_shuffles<warp_threads>(value, combine);
  if (!Again) cluster_wait<Blocks>();
  if (lane < Blocks) {
    of_block<Blocks>(of_warp[rank * warps + thread_index() / warp_threads], lane).put(value);
  }
  cluster_barrier<Blocks>();
  value = of_warp[lane % lanes].get();
  LIGER_UNROLL for (int first = lanes; first < count; first += lanes) {
    value = combine(value, of_warp[first + lane % lanes].get());
  }
  return meet_by_shuffles<lanes>(value, combine);
}

// Adds the packs of all threads of the cluster, element by element and at last the eight elements:
// halves of what is left, from the highest bit of the position to the lowest. The position's bits
// are the three highest of the thread, then the block, then the rest of the thread, then the
// element. `again`: this is not the kernel's first call.
template <int Threads, int Blocks>
LIGER_DEVICE float across_positions(const Pack<float>& of_thread, int rank, bool again) {
  constexpr int warps = Threads / warp_threads;
  LIGER_SHARED float by_position[pack_size][Threads + 4];  // a column more a pack: no bank conflict
  LIGER_SHARED float rest[Threads];
  const int thread = thread_index();
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) by_position[i][thread] = of_thread.v[i];
  barrier();
  float part[pack_size];
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
    part[i] = by_position[thread % pack_size][(i * Threads + thread) / pack_size];
  }
  tree_reduce<pack_size>(part, Add{});
  float sum = part[0];
  if constexpr (Blocks > 1) {
    LIGER_SHARED float of_blocks[Blocks][Threads];
    if (again) cluster_barrier<Blocks>();  // all have read what is there
    LIGER_UNROLL for (int block = 0; block < Blocks; ++block) {
      of_block<Blocks>(of_blocks[rank][thread], block) = sum;
    }
    cluster_barrier<Blocks>();
    float each[Blocks];
    LIGER_UNROLL for (int block = 0; block < Blocks; ++block) {
      each[block] = of_blocks[block][thread];
    }
    tree_reduce<Blocks>(each, Add{});
    sum = each[0];
  }
  rest[thread] = sum;
  barrier();
  float of_warp[warps];
  LIGER_UNROLL for (int warp = 0; warp < warps; ++warp) {
    of_warp[warp] = rest[warp * warp_threads + thread % warp_threads];
  }
  tree_reduce<warps>(of_warp, Add{});
  return meet_by_shuffles<warp_threads>(of_warp[0], Add{});
}

}  // namespace liger
