// y[e] = sum of the rows x of expert e, each times the routing weight of its pair where there is
// one. A segment's rows are added in order, then an expert's segments, so no bit depends on who
// does it.
#pragma once
#include "device/row.h"
#include "experts/segments.h"

namespace liger {

struct SegmentSumsSpec {
  Dtype x;
  Dtype weight;
  bool weighted;  // and x has rows of tokens, else one for each place
  int slots;      // experts of a token
  int width;
  int segment_rows;
  int align_bytes;
  int threads;  // tuned
};

// f(which, pack): neighbouring threads have neighbouring packs; on the host one has them all.
template <int Width, int Threads, class F>
LIGER_DEVICE void each_pack_of_block(long long block, F&& f) {
  constexpr int packs = (Width + pack_size - 1) / pack_size;
  if constexpr (on_host) {
    for (int pack = 0; pack < packs; ++pack) f(block, pack);
  } else {
    constexpr int tiles = (packs + Threads - 1) / Threads;
    const int pack = static_cast<int>(block % tiles) * Threads + thread_index();
    if (pack < packs) f(block / tiles, pack);
  }
}

template <SegmentSumsSpec S>
struct SegmentSums {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  using A = Arithmetic<S.x>;

  const Type<S.x>* x;
  const Type<S.weight>* weights;
  const int* order;
  const int* ends;
  A* partials;
  long long num_experts;
  long long places;
  long long x_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_pack_of_block<S.width, S.threads>(block, [&](long long number, int pack) {
      const Segment segment = segment_of<S.segment_rows>(ends, num_experts, places, number);
      Pack<A> sum = filled(A(0));
      for (long long place = segment.begin; place < segment.end; ++place) {
        if constexpr (S.weighted) {
          const long long pair = order[place];
          const auto row = x + pair / S.slots * x_stride;
          sum = fused(load_pack<S.width, S.align_bytes>(row, pack), filled(A(widen(weights[pair]))),
                      sum);
        } else {
          sum = sum + load_pack<S.width, S.align_bytes>(x + place * x_stride, pack);
        }
      }
      constexpr int padded = (S.width + pack_size - 1) / pack_size * pack_size;
      store_pack<padded, 16>(partials + number * padded, pack, sum);
    });
  }
};

struct ExpertSumsSpec {
  Dtype y;
  int width;
  int segment_rows;
  int align_bytes;
  int threads;  // tuned
};

template <ExpertSumsSpec S>
struct ExpertSums {
  static constexpr int block_threads = on_host ? 1 : S.threads;
  using A = Arithmetic<S.y>;

  const A* partials;
  const int* ends;
  Type<S.y>* y;

  LIGER_DEVICE void operator()(long long block) const {
    each_pack_of_block<S.width, S.threads>(block, [&](long long expert, int pack) {
      const long long begin = start_of_expert(ends, expert);
      const long long end = ends[expert];
      const long long first = begin / S.segment_rows + expert;
      const long long last = end > begin ? (end - 1) / S.segment_rows + expert : first - 1;
      constexpr int padded = (S.width + pack_size - 1) / pack_size * pack_size;
      Pack<A> sum = filled(A(0));
      for (long long segment = first; segment <= last; ++segment)
        sum = sum + load_pack<padded, 16>(partials + segment * padded, pack);
      store_pack<S.width, S.align_bytes>(y + expert * S.width, pack, sum);
    });
  }
};

}  // namespace liger
