// y[t] = weight[indices[t]]: rows are copied as they are.
#pragma once
#include "device/fault.h"
#include "device/row.h"

namespace liger {

struct EmbeddingSpec {
  Dtype weight;
  Dtype index;
  int width;
  int align_bytes;
  bool hold;    // a row fits in registers
  int threads;  // tuned; of one row
  int rows;     // tuned; of one block
};

template <EmbeddingSpec S>
struct Embedding {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using T = Type<S.weight>;
  using Row = RowOf<S.width, S.threads, S.rows, S.hold>;

  const T* weight;
  const Type<S.index>* indices;
  T* y;
  InputFault fault;
  long long tokens;
  long long weight_rows;
  long long weight_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, tokens, [&](long long token, int thread, bool active) {
      if (!active) return;
      const long long id = indices[token];
      T* const to = y + token * S.width;
      if (id >= 0 && id < weight_rows) {
        copy(weight + id * weight_stride, to, thread);
      } else {
        const auto nothing = filled(Arithmetic<S.weight>(bits_as<float>(0x7fc00000u)));
        Row::each(thread,
                  [&](int, int pack) { store_pack<S.width, S.align_bytes>(to, pack, nothing); });
        if (thread == 0) record_fault(fault, token, id, weight_rows);
      }
    });
  }

 private:
  static LIGER_DEVICE void copy(const T* from, T* to, int thread) {
    if constexpr (S.hold) {
      RawPack<T> packs[Row::slots];  // all are on their way before the first is stored
      Row::each(thread, [&](int slot, int pack) {
        packs[slot] = load_raw_pack<S.width, S.align_bytes>(from, pack);
      });
      Row::each(thread, [&](int slot, int pack) {
        store_raw_pack<S.width, S.align_bytes>(to, pack, packs[slot]);
      });
    } else {
      Row::each(thread, [&](int, int pack) {
        store_raw_pack<S.width, S.align_bytes>(to, pack,
                                               load_raw_pack<S.width, S.align_bytes>(from, pack));
      });
    }
  }
};

}  // namespace liger
