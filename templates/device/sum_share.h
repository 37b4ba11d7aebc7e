// The sum of two rows, which a norm reads while it is made.
#pragma once
#include "device/row.h"

namespace liger {

// One thread's share of left + right, rounded to T and written to `sum`. Resident: kept in
// registers; else read again from where this thread wrote it. What is not active writes nothing, as
// others may write that row, and what it reads again is zero.
template <class Row, int N, int AlignBytes, bool Resident, class T>
class SumShare {
 public:
  using A = typename ArithmeticOf<T>::Type;
  LIGER_DEVICE SumShare(const T* left, const T* right, T* sum, bool active)
      : left_(left), right_(right), sum_(sum), active_(active) {}

  // Once for each pack, before `at`.
  LIGER_DEVICE Pack<A> made(int slot, int pack) {
    const auto v = rounded_to<T>(load_pack<N, AlignBytes>(left_, pack) +
                                 load_pack<N, AlignBytes>(right_, pack));
    if (active_) store_pack<N, AlignBytes>(sum_, pack, v);
    if constexpr (Resident) held_[slot] = v;
    return v;
  }
  LIGER_DEVICE Pack<A> at(int slot, int pack) const {
    if constexpr (Resident) return held_[slot];
    return active_ ? load_pack<N, AlignBytes, false>(sum_, pack) : Pack<A>{};
  }

 private:
  const T* left_;
  const T* right_;
  T* sum_;
  bool active_;
  Pack<A> held_[Resident ? Row::slots : 1];
};

}  // namespace liger
