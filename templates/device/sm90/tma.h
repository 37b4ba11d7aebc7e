// Tiles of a matrix of two-byte elements between global and shared memory, by the copy engine that
// NVIDIA's GPUs have from 9.0 on, and the barriers in shared memory that tell of their arrival.
#pragma once
#include "device/sm90/cluster.h"

namespace liger {

#if defined(LIGER_CUDA) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LIGER_TMA 1
#endif

// How the engine finds tiles of one matrix: made by the driver, opaque. Without an engine not read.
struct alignas(64) TensorMap {
  unsigned long long words[16];
};

#if defined(LIGER_TMA)

using SharedAddress = unsigned int;

LIGER_DEVICE SharedAddress shared_address(const void* place) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(place));
}

// A barrier whose phase ends when as many as it was made for have arrived, and all bytes that they
// announced. Phases have parities 0, 1, 0, ...
struct Mbarrier {
  SharedAddress address;

  LIGER_DEVICE void make(int arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(arrivals)
                 : "memory");
  }
  LIGER_DEVICE void arrive_and_expect(int bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes)
                 : "memory");
  }
  // When what this thread has copied by copy_16_bytes() is there.
  LIGER_DEVICE void arrive_with_copies() const {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address) : "memory");
  }
  // At the same barrier of another block of the cluster. Orders nothing but what was waited for.
  LIGER_DEVICE void arrive_in(int block) const {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}" ::"r"(address),
        "r"(block)
        : "memory");
  }
  LIGER_DEVICE void wait(int parity) const {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(address),
        "r"(parity)
        : "memory");
  }
};

// Barriers that were made can be seen by the cluster and by the engine, after a cluster barrier.
LIGER_DEVICE void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// What threads wrote into shared memory can be read by the engine.
LIGER_DEVICE void fence_for_tma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A tile into this block, or into the same place of `Blocks` blocks of the cluster, whose barriers
// it arrives at. What is outside of the matrix becomes zero.
template <int Blocks>
LIGER_DEVICE void load_tile(SharedAddress to, const TensorMap& from, int column, int row,
                            Mbarrier barrier) {
  if constexpr (Blocks == 1) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
        "l"(&from), "r"(column), "r"(row), "r"(barrier.address)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(&from), "r"(column), "r"(row), "r"(barrier.address),
        "h"(static_cast<unsigned short>((1 << Blocks) - 1))
        : "memory");
  }
}

// A tile of one of several matrices.
template <int Blocks>
LIGER_DEVICE void load_tile(SharedAddress to, const TensorMap& from, int column, int row,
                            int matrix, Mbarrier barrier) {
  if constexpr (Blocks == 1) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
        "l"(&from), "r"(column), "r"(row), "r"(matrix), "r"(barrier.address)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
        "l"(&from), "r"(column), "r"(row), "r"(matrix), "r"(barrier.address),
        "h"(static_cast<unsigned short>((1 << Blocks) - 1))
        : "memory");
  }
}

// By this thread and not the engine, which must be told by fence_for_tma() before it or matrix
// units read: zeros instead of what is not there.
LIGER_DEVICE void copy_16_bytes(SharedAddress to, const void* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(is_there ? 16 : 0)
               : "memory");
}

// A tile from shared memory; what is outside of the matrix is not written.
LIGER_DEVICE void store_tile(const TensorMap& to, SharedAddress from, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n"
      "cp.async.bulk.commit_group;" ::"l"(&to),
      "r"(column), "r"(row), "r"(from)
      : "memory");
}

// Until all but the last `Pending` stores of this thread have read their tiles, or have ended.
template <int Pending>
LIGER_DEVICE void wait_until_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
LIGER_DEVICE void wait_for_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

#endif

}  // namespace liger
