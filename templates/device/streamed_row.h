// A row that one block reads anew at each use: one too long for registers, or any on the host,
// where it stays in the cache.
#pragma once
#include "device/softmax.h"

namespace liger {

template <int N, int Threads, int Bytes, bool Constant, class T>
class StreamedRow {
 public:
  using A = typename ArithmeticOf<T>::Type;
  LIGER_DEVICE StreamedRow(const T* row, int thread, int = 0) : row_(row), thread_(thread) {}
  LIGER_DEVICE void read() {}
  LIGER_DEVICE void wait() const {}

  // The eight elements of a pack that another row of that length is at.
  LIGER_DEVICE Pack<A> at(int pack) const {
    return load_pack<N, Bytes, Constant>(row_, pack, minus_infinity<A>());
  }

  LIGER_DEVICE bool owns(int column) const {
    return on_host || column / pack_size % Threads == thread_;
  }
  LIGER_DEVICE bool leads() const { return thread_ == 0; }

  // Combines f(column, eight elements, eight of each of the others). Elements that are missing are
  // -inf.
  template <class V, class F, class Combine, class... Others>
  LIGER_DEVICE V combined(F&& f, Combine combine, V empty, const Others&... others) const {
    return Row::template combined<V>(
        thread_, [&](int, int pack) { return f(pack * pack_size, at(pack), others.at(pack)...); },
        combine, empty);
  }

  // As of a row that is held; here all packs are looked at each time.
  template <class F>
  LIGER_DEVICE unsigned long long marked(F&&) const {
    return 0;
  }
  template <class V, class F, class Combine>
  LIGER_DEVICE V of_marked(unsigned long long, int, F&& f, Combine combine, V empty) const {
    return Row::template combined<V>(
        thread_, [&](int, int pack) { return f(at(pack)); }, combine, empty);
  }

  // Adds the eight results of f(column, eight elements, eight of each of the others), which are
  // zero for what is missing.
  template <class F, class... Others>
  LIGER_DEVICE A sum(bool, F&& f, const Others&... others) const {
    return Row::template combined<A>(thread_, [&](int, int pack) {
      return total(f(pack * pack_size, at(pack), others.at(pack)...));
    });
  }

  // Two sums in one reading: f gives eight results of each.
  template <class F, class... Others>
  LIGER_DEVICE Two<A> two_sums(bool, F&& f, const Others&... others) const {
    return Row::template combined<Two<A>>(thread_, [&](int, int pack) {
      const Two<Pack<A>> both = f(pack * pack_size, at(pack), others.at(pack)...);
      return Two<A>{total(both.first), total(both.second)};
    });
  }

  // to[column] = f(column, eight elements, eight of each of the others).
  template <class F, class... Others>
  LIGER_DEVICE void store(T* to, F&& f, const Others&... others) const {
    Row::each(thread_, [&](int, int pack) {
      store_pack<N, Bytes>(to, pack, f(pack * pack_size, at(pack), others.at(pack)...));
    });
  }

  LIGER_DEVICE void fill(T* to, A value) const {
    Row::each(thread_, [&](int, int pack) { store_pack<N, Bytes>(to, pack, filled(value)); });
  }

 private:
  using Row = RowOf<N, Threads>;
  const T* row_;
  int thread_;
};

}  // namespace liger
