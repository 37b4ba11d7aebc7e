// The rotation of rotary embeddings over a row's packs. In the half-split form element c of the
// first half turns with element c + half, and what comes after `Rotary` is left alone.
#pragma once
#include "device/row.h"

namespace liger {

// An element of the low half or of the high one, turned by its angle or turned back; `across` is
// what it turns with, times the sine.
template <bool Back, class A>
LIGER_DEVICE A turned_by(bool low, A own, A cos, A across) {
  return fused(own, cos, low == Back ? across : -across);
}
template <bool Back, class A>
LIGER_DEVICE Pack<A> turned_by(bool low, const Pack<A>& own, const Pack<A>& cos,
                               const Pack<A>& across) {
  return map([low](A x, A c, A from) { return turned_by<Back>(low, x, c, from); }, own, cos,
             across);
}

template <class A, int N, int Rotary, int Threads>
struct HalfSplit {
  static constexpr int half = Rotary / 2;
  // Packs turn with packs; else elements with elements.
  static constexpr bool wide = half % pack_size == 0 && N % pack_size == 0;
  static constexpr int half_packs = half / pack_size;
  // Who has a pack has the one it turns with: then a row may stay in registers.
  static constexpr bool paired = !on_host && wide && half_packs % Threads == 0;
  static constexpr int half_slots = paired ? half_packs / Threads : half_packs;

  // A pack of the row turned by its angles, or turned back. The row and its angles are read with
  // `at(slot, pack)` and `element(column)`.
  template <bool Back, class Values, class Cos, class Sin>
  static LIGER_DEVICE Pack<A> turned(int slot, int pack, const Values& x, const Cos& cos,
                                     const Sin& sin) {
    Pack<A> result = x.at(slot, pack);
    if constexpr (wide) {
      const int place = paired ? slot : pack;
      if (place >= 2 * half_slots) return result;
      const bool low = place < half_slots;
      const int other_slot = low ? slot + half_slots : slot - half_slots;
      const int other_pack = low ? pack + half_packs : pack - half_packs;
      const Pack<A> s = Back ? sin.at(other_slot, other_pack) : sin.at(slot, pack);
      const Pack<A> across = x.at(other_slot, other_pack) * s;
      result = turned_by<Back>(low, result, cos.at(slot, pack), across);
    } else {
      LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
        const int column = pack * pack_size + i;
        if (column >= Rotary) continue;
        const bool low = column < half;
        const int other = low ? column + half : column - half;
        const A across = x.element(other) * sin.element(Back ? other : column);
        result.v[i] = turned_by<Back>(low, result.v[i], cos.element(column), across);
      }
    }
    return result;
  }
};

// A row of angles, in the arithmetic of what it turns.
template <class Share, class A>
class Angles {
 public:
  template <class T>
  LIGER_DEVICE Angles(const T* row, int thread) : share_(row, thread) {}
  LIGER_DEVICE Pack<A> at(int slot, int pack) const {
    const auto angles = share_.at(slot, pack);
    Pack<A> result;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) result.v[i] = A(angles.v[i]);
    return result;
  }
  LIGER_DEVICE A element(int column) const { return A(share_.element(column)); }

 private:
  Share share_;
};

}  // namespace liger
