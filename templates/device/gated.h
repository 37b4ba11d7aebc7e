// y = act(gate) * up and its gradients, for any activation. The activation is rounded to the
// tensors' type before the product, as the modules that this replaces do.
#pragma once
#include "device/activation.h"
#include "device/row.h"

namespace liger {

struct GatedSpec {
  Dtype x;
  int width;  // exact length of a row
  int align_bytes;
  int threads;  // tuned
  int rows;     // tuned
};

// The gradients of act(gate) * up for eight elements, and act(gate) itself, rounded to T.
template <class A>
struct GatedGradients {
  Pack<A> of_gate;
  Pack<A> of_up;
  Pack<A> activation;
};
template <class T, class Activation, bool Exact, class A>
LIGER_DEVICE GatedGradients<A> gated_gradients(const Pack<A>& d, const Pack<A>& gate,
                                               const Pack<A>& up) {
  GatedGradients<A> result;
  LIGER_UNROLL for (int i = 0; i < pack_size; ++i) {
    const auto act = Activation::template at<Exact>(gate.v[i]);
    result.activation.v[i] = rounded_to<T>(act.value);
    result.of_gate.v[i] = d.v[i] * up.v[i] * act.slope;
    result.of_up.v[i] = d.v[i] * result.activation.v[i];
  }
  return result;
}

template <GatedSpec S, class Activation>
struct GatedForward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;

  const T* gate;
  const T* up;
  T* y;
  long long rows;
  long long gate_stride;
  long long up_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row<S.threads, S.rows>(block, rows, [&](long long row, int thread, bool active) {
      if (!active) return;
      Row::each(thread, [&](int, int pack) {
        const auto g = load_pack<S.width, S.align_bytes>(gate + row * gate_stride, pack);
        const auto u = load_pack<S.width, S.align_bytes>(up + row * up_stride, pack);
        const auto product = map(
            [](A a, A b) {
              return rounded_to<T>(Activation::template at<wants_exact(S.x)>(a).value) * b;
            },
            g, u);
        store_pack<S.width, S.align_bytes>(y + row * S.width, pack, product);
      });
    });
  }
};

template <GatedSpec S, class Activation>
struct GatedBackward {
  static constexpr int block_threads = threads_of_block(S.threads, S.rows);
  using A = Arithmetic<S.x>;
  using T = Type<S.x>;
  using Row = RowOf<S.width, S.threads, S.rows>;

  const T* dy;
  const T* gate;
  const T* up;
  T* dgate;
  T* dup;
  long long rows;
  long long dy_stride;
  long long gate_stride;
  long long up_stride;

  LIGER_DEVICE void operator()(long long block) const {
    each_row_from_the_end<S.threads, S.rows>(
        block, rows, [&](long long row, int thread, bool active) {
          if (!active) return;
          Row::each(thread, [&](int, int pack) {
            const auto d = load_pack<S.width, S.align_bytes>(dy + row * dy_stride, pack);
            const auto g = load_pack<S.width, S.align_bytes>(gate + row * gate_stride, pack);
            const auto u = load_pack<S.width, S.align_bytes>(up + row * up_stride, pack);
            const auto made = gated_gradients<T, Activation, wants_exact(S.x)>(d, g, u);
            store_pack<S.width, S.align_bytes>(dgate + row * S.width, pack, made.of_gate);
            store_pack<S.width, S.align_bytes>(dup + row * S.width, pack, made.of_up);
          });
        });
  }
};

}  // namespace liger
