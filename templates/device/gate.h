// The formula of a gate, y = act(gate) * up, and its gradients, for eight elements. Without
// multipliers the activation is rounded to the tensors' type before the product, as the modules
// that this replaces do.
#pragma once
#include "device/activation.h"
#include "device/pack.h"

namespace liger {

struct GateSpec {
  Dtype x;
  int activation;
  bool scaled;   // a factor is not 1
  bool limited;  // gate is at most the limit, and up between minus it and it
  bool lifted;   // up + 1 takes the place of up
};

// y = down * act(gate_multiplier * min(gate, limit)) * (clamp(up, limit) + 1): what of it is
// wanted.
template <GateSpec S>
struct Gate {
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;

  static constexpr bool rounds = !S.scaled && !S.lifted;

  A gate_multiplier;
  A down_multiplier;
  A alpha;  // of quick_gelu
  A limit;

  struct Gradients {
    Pack<A> of_gate;
    Pack<A> of_up;
    Pack<A> product;  // the value itself, made anew
  };

  LIGER_DEVICE Pack<A> value(const Pack<A>& gate, const Pack<A>& up) const {
    return map([this](A g, A u) { return scaled(activation_of(g).value * factor(u)); }, gate, up);
  }

  LIGER_DEVICE Gradients gradients(const Pack<A>& dy, const Pack<A>& gate,
                                   const Pack<A>& up) const {
    Gradients result;
    LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
      const A g = gate.v[i];
      const A u = up.v[i];
      const auto act = activation_of(g);
      const A d = scaled(dy.v[i]);
      const A of_gate = d * factor(u) * (S.scaled ? act.slope * gate_multiplier : act.slope);
      const A of_up = d * act.value;
      result.product.v[i] = scaled(act.value * factor(u));
      // At the limit itself too, as torch.clamp has it; a comparison with NaN is false.
      result.of_gate.v[i] = S.limited && !(g < limit) ? A(0) : of_gate;
      result.of_up.v[i] = S.limited && !(u > -limit && u < limit) ? A(0) : of_up;
    }
    return result;
  }

 private:
  LIGER_DEVICE A scaled(A value) const { return S.scaled ? value * down_multiplier : value; }
  LIGER_DEVICE A at_most_limit(A value) const { return S.limited && value > limit ? limit : value; }
  LIGER_DEVICE ValueAndSlope<A> activation_of(A gate) const {
    const A g = at_most_limit(gate);
    const auto act = activated<S.activation, S.x>(S.scaled ? g * gate_multiplier : g, alpha);
    return {rounds ? rounded_to<T>(act.value) : act.value, act.slope};
  }
  LIGER_DEVICE A factor(A up) const {
    const A u = at_most_limit(S.limited && up < -limit ? -limit : up);
    return S.lifted ? u + A(1) : u;
  }
};

}  // namespace liger
