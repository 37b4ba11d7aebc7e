// A row that one block reads anew at each use: one too long for registers, or any on the host,
// where it stays in the cache.
#pragma once
#include "device/softmax.h"

namespace liger {

template <int N, int Threads, int Bytes, bool Constant, class T>
class StreamedRow {
 public:
  using A = typename ArithmeticOf<T>::Type;
  LIGER_DEVICE StreamedRow(const T* row, int thread) : row_(row), thread_(thread) {}
  LIGER_DEVICE void read() {}

  LIGER_DEVICE bool owns(int column) const {
    return on_host || column / pack_size % Threads == thread_;
  }
  LIGER_DEVICE bool leads() const { return thread_ == 0; }

  // Combines f(column, eight elements). Elements that are missing are -inf.
  template <class V, class F, class Combine>
  LIGER_DEVICE V combined(F&& f, Combine combine, V empty) const {
    return Row::template combined<V>(
        thread_, [&](int, int pack) { return f(pack * pack_size, load(pack)); }, combine, empty);
  }

  // Adds the eight results of f(column, eight elements), which are zero for what is missing.
  template <class F>
  LIGER_DEVICE A sum(bool, F&& f) const {
    return Row::template combined<A>(
        thread_, [&](int, int pack) { return total(f(pack * pack_size, load(pack))); });
  }

  // to[column] = f(column, eight elements).
  template <class F>
  LIGER_DEVICE void store(T* to, F&& f) const {
    Row::each(thread_, [&](int, int pack) {
      store_pack<N, Bytes>(to, pack, f(pack * pack_size, load(pack)));
    });
  }

  LIGER_DEVICE void fill(T* to, A value) const {
    Row::each(thread_, [&](int, int pack) { store_pack<N, Bytes>(to, pack, filled(value)); });
  }

 private:
  using Row = RowOf<N, Threads>;
  LIGER_DEVICE Pack<A> load(int pack) const {
    return load_pack<N, Bytes, Constant>(row_, pack, minus_infinity<A>());
  }

  const T* row_;
  int thread_;
};

}  // namespace liger
