// A row that one block reads anew at each use: one too long for registers, or any on the host,
// where it stays in the cache.
#pragma once
#include "device/softmax.h"

namespace liger {

template <int N, int Threads, int Bytes, bool Constant, class T>
class StreamedRow {
 public:
  using A = typename ArithmeticOf<T>::Type;
  using Row = RowOf<N, Threads>;
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

  // The largest element.
  LIGER_DEVICE A largest() const {
    const auto itself = [](int, const Pack<A>& mine) { return mine; };
    return combined_elements(itself, Larger{}, minus_infinity<A>());
  }

  // The same of the elements of packs that f gives.
  template <class F, class Combine, class... Others>
  LIGER_DEVICE A combined_elements(F&& f, Combine combine, A empty, const Others&... others) const {
    return Row::template combined_elements<A>(
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
    return Row::template sum_of_made<A>(
        thread_, [&](int, int pack) { return f(pack * pack_size, at(pack), others.at(pack)...); });
  }

  // What the first reading of a row made of it, for the second: on the host they need not be made
  // twice. Their place is where the results will be, if those are as wide.
  static constexpr bool in_place = on_host && sizeof(T) == sizeof(A);
  static constexpr bool keeps = on_host && !in_place && N <= 16384;
  struct Terms {
    Pack<A> v[keeps ? Row::packs : 1];
  };
  // Adds f(element), and store()s with(eight elements, what makes f(element) of one of these).
  template <class F>
  LIGER_DEVICE A sum_of_terms(T* to, Terms& terms, F&& f) const {
    return Row::template sum_of_made<A>(thread_, [&](int, int pack) {
      const Pack<A> made = map(f, at(pack));
      if constexpr (keeps) terms.v[pack] = made;
      if constexpr (in_place) store_pack<N, Bytes>(to, pack, made);
      return made;
    });
  }
  template <class F, class With>
  LIGER_DEVICE void store_terms(T* to, const Terms& terms, F&& f, With&& with) const {
    const auto itself = [](A term) { return term; };
    Row::each(thread_, [&](int, int pack) {
      if constexpr (keeps) {
        store_pack<N, Bytes>(to, pack, with(terms.v[pack], itself));
      } else if constexpr (in_place) {
        store_pack<N, Bytes>(to, pack, with(load_pack<N, Bytes, false>(to, pack), itself));
      } else {
        store_pack<N, Bytes>(to, pack, with(at(pack), f));
      }
    });
  }

  // Two sums in one reading: f gives eight results of each.
  template <class F, class... Others>
  LIGER_DEVICE Two<A> two_sums(bool, F&& f, const Others&... others) const {
    return Row::template sum_of_made<Two<A>>(
        thread_, [&](int, int pack) { return f(pack * pack_size, at(pack), others.at(pack)...); });
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
  const T* row_;
  int thread_;
};

}  // namespace liger
