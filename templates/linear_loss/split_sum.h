// A sum of float32 numbers that has 24 bits: its upper 16 are where the result is wanted in
// bfloat16, the lower 8 lie beside it. It adds up in three quarters of the memory that float32
// takes, and what is left once it is rounded is the result itself.
#pragma once
#include "device/row.h"

namespace liger {

struct SplitSumSpec {
  int width;
  bool first;  // there is nothing to add to
  bool last;   // rounds the sum to bfloat16
  int threads;
  int rows;
};

template <SplitSumSpec S>
struct SplitSum {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  static_assert(S.width % pack_size == 0);
  using Row = RowOf<S.width, S.threads, S.rows>;

  const float* x;
  bf16* high;
  unsigned char* low;
  long long rows;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (!active) return;
      Row::each(thread, [&](int, int pack) { add(row * S.width, pack); });
    });
  }

 private:
  LIGER_DEVICE void add(long long row, int pack) const {
    auto sum = load_pack<S.width, 16>(x + row, pack);
    if constexpr (!S.first) {
      const auto upper = load_pack<S.width, 16, false>(high + row, pack);
      const auto lower = load_raw_pack<S.width, 8>(low + row, pack);
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        const unsigned int byte = lower.words[i / 4] >> i % 4 * 8 & 0xff;
        sum.v[i] += bits_as<float>(bits_as<unsigned int>(upper.v[i]) | byte << 8);
      }
    }
    if constexpr (!S.last) {
      RawPack<unsigned char> lower{};
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        const unsigned int bits = of_24_bits(sum.v[i]);
        lower.words[i / 4] |= (bits >> 8 & 0xff) << i % 4 * 8;
        sum.v[i] = bits_as<float>(bits & 0xffff0000u);
      }
      store_raw_pack<S.width, 8>(low + row, pack, lower);
    }
    store_pack<S.width, 16>(high + row, pack, sum);
  }

  // To the nearest, of two the even one.
  static LIGER_DEVICE unsigned int of_24_bits(float value) {
    if (value != value) return 0x7fc00000u;
    const unsigned int bits = bits_as<unsigned int>(value);
    return bits + 0x7f + (bits >> 8 & 1);
  }
};

}  // namespace liger
