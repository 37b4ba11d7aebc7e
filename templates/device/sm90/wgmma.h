// Products of slices in shared memory by the matrix units of sm_90a, which a group of 128 threads
// works together. A slice lies in blocks of 64 x 64 elements of two bytes, of 8 KiB each, as the
// copy engine's swizzle of 128 bytes leaves them.
#pragma once
#include "device/pack.h"
#include "device/sm90/tma.h"

namespace liger {

#if defined(LIGER_TMA)

constexpr int wgmma_rows = 64;
constexpr int wgmma_depth = 16;
constexpr int block_side = 64;  // of what lies together in shared memory
constexpr int block_bytes = block_side * block_side * 2;

#define LIGER_4(FIRST) \
  "+f"(sums[FIRST]), "+f"(sums[FIRST + 1]), "+f"(sums[FIRST + 2]), "+f"(sums[FIRST + 3])
#define LIGER_16(FIRST) LIGER_4(FIRST), LIGER_4(FIRST + 4), LIGER_4(FIRST + 8), LIGER_4(FIRST + 12)
#define LIGER_64(FIRST) \
  LIGER_16(FIRST), LIGER_16(FIRST + 16), LIGER_16(FIRST + 32), LIGER_16(FIRST + 48)
#define LIGER_NAMES_64                                               \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"           \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define LIGER_NAMES_128                                                          \
  LIGER_NAMES_64                                                                 \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"            \
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"             \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
  "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define LIGER_WGMMA(SHAPE, TYPE, NAMES, SLICES, ADD, TURNS, ...)                          \
  asm volatile(                                                                           \
      "{\n"                                                                               \
      ".reg .pred add;\n"                                                                 \
      "setp.ne.b32 add, " ADD                                                             \
      ", 0;\n"                                                                            \
      "wgmma.mma_async.sync.aligned." SHAPE ".f32." TYPE "." TYPE " {" NAMES "}, " SLICES \
      ", add, 1, 1, " TURNS                                                               \
      ";\n"                                                                               \
      "}"                                                                                 \
      : __VA_ARGS__                                                                       \
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(TurnedA ? 1 : 0), "n"(TurnedB ? 1 : 0))

// Sums of 64 x 256 products over 16 of the depth: 128 of each of a group's threads. `a` and `b`
// describe slices in shared memory; turned is one that has what is not the depth side by side.
template <class T, bool TurnedA = false, bool TurnedB = false>
LIGER_DEVICE void multiply_slices(float (&sums)[128], unsigned long long a, unsigned long long b,
                                  bool add) {
  if constexpr (is_bf16<T>) {
    LIGER_WGMMA("m64n256k16", "bf16", LIGER_NAMES_128, "%128, %129", "%130", "%131, %132",
                LIGER_64(0), LIGER_64(64));
  } else {
    LIGER_WGMMA("m64n256k16", "f16", LIGER_NAMES_128, "%128, %129", "%130", "%131, %132",
                LIGER_64(0), LIGER_64(64));
  }
}
// Of 64 x 128.
template <class T, bool TurnedA = false, bool TurnedB = false>
LIGER_DEVICE void multiply_slices(float (&sums)[64], unsigned long long a, unsigned long long b,
                                  bool add) {
  if constexpr (is_bf16<T>) {
    LIGER_WGMMA("m64n128k16", "bf16", LIGER_NAMES_64, "%64, %65", "%66", "%67, %68", LIGER_64(0));
  } else {
    LIGER_WGMMA("m64n128k16", "f16", LIGER_NAMES_64, "%64, %65", "%66", "%67, %68", LIGER_64(0));
  }
}

#undef LIGER_4
#undef LIGER_16
#undef LIGER_64
#undef LIGER_NAMES_64
#undef LIGER_NAMES_128
#undef LIGER_WGMMA

LIGER_DEVICE void begin_multiplying() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
LIGER_DEVICE void end_group_of_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int Pending>
LIGER_DEVICE void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Eight rows of 128 bytes each 1024. Of a slice with the depth side by side these are rows of the
// operand, of a turned one the depth; and that has the next 64 of the operand a block further.
template <bool Turned = false>
LIGER_DEVICE unsigned long long slice_at(SharedAddress address) {
  constexpr unsigned long long swizzle_of_128 = 1ull << 62;
  constexpr unsigned long long eight_rows = 1024 >> 4;
  constexpr unsigned long long next_block = Turned ? block_bytes >> 4 : 1;  // or not read
  return static_cast<unsigned long long>((address & 0x3ffff) >> 4) | next_block << 16 |
         eight_rows << 32 | swizzle_of_128;
}

// From a slice to that of the next 16 of the depth.
template <bool Turned = false>
constexpr unsigned long long next_slice = (Turned ? wgmma_depth * block_side : wgmma_depth) * 2 >>
                                          4;

// Four 8 x 8 blocks of two-byte elements; lanes 8 i to 8 i + 7 name the rows of block i.
LIGER_DEVICE void store_blocks(SharedAddress row, const unsigned int (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

#endif

}  // namespace liger
