#include "composites/linear_loss/scaled_exp.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>

#include "engine/registry.h"
#include "ops/linear_loss/scaled_exp.h"

namespace liger::torch_bindings {
namespace {

// Of two bytes. As much is taken for the input's gradient in float32, so that its product has
// enough rows to keep a GPU busy.
constexpr int64_t most_fast_elements = int64_t{8} << 20;

bool aligned(const at::Tensor& tensor) {
  return tensor.is_meta() || reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

bool plain(const CompositeCall& in) {
  for (const char* tensor : {"bias", "ce_weight"}) {
    if (in.has(tensor)) return false;
  }
  for (const char* number : {"label_smoothing", "lse_square_scale", "softcap"}) {
    if (in[number].toDouble() != 0.0) return false;
  }
  for (const char* flag : {"token_scaling", "want_accuracy", "want_predicted"}) {
    if (in[flag].toBool()) return false;
  }
  return true;
}

}  // namespace

bool ScaledExp::serve(const LinearLoss& loss, int64_t chunk) {
  const at::Tensor& input = loss.input;
  return loss.totals.defined() && input.scalar_type() == at::kBFloat16 && plain(loss.in) &&
         aligned(input) && aligned(loss.weight) &&
         scaled_exp_pay(loss.in.place(), std::min(chunk, input.size(0)), input.size(1),
                        loss.weight.size(0));
}

ScaledExp::ScaledExp(const LinearLoss& loss, int64_t chunk, bool with_gradient)
    : loss_(loss), chunk_(chunk) {
  const int64_t tokens = loss_.input.size(0);
  const auto floats = loss_.input.options().dtype(at::kFloat);
  score_ = at::empty({tokens}, floats);
  reference_ = at::empty({tokens}, floats);
  const int64_t sums = scaled_exp_sums(loss_.weight.size(0));
  sums_ = at::empty({chunk, sums}, floats);
  maxima_ = at::empty({chunk, sums}, floats);
  if (with_gradient) {
    factor_ = at::empty({chunk}, floats);
    const int64_t elements = chunk * loss_.input.size(1);
    const int64_t fast = std::min(elements * 2, most_fast_elements);
    scratch_ = at::empty({std::max(elements, fast)}, loss_.input.options());
    scaled_input_ = scratch_.narrow(0, 0, elements).view({chunk, loss_.input.size(1)});
  }
  wanted_ = at::zeros({(tokens + chunk - 1) / chunk}, floats.dtype(at::kLong));
  static const Op& reference = op_named("linear_reference_");
  loss_.in.run(reference, {{"input", loss_.input},
                           {"weight", loss_.weight},
                           {"target", loss_.target},
                           {"score", score_},
                           {"reference", reference_}});
}

at::Tensor ScaledExp::buffer() const {
  if (!scaled_input_.defined()) return {};
  const int64_t classes = loss_.weight.size(0);
  return at::empty({chunk_, padded_columns(classes)}, loss_.input.options()).narrow(1, 0, classes);
}

at::Tensor ScaledExp::chunk(int64_t first, int64_t count, const at::Tensor& e,
                            const at::Tensor& row_loss, const at::Tensor& row_z_loss) const {
  static const Op& product = op_named("scaled_exp_");
  static const Op& rows = op_named("scaled_exp_rows_");
  const at::Tensor x = loss_.input.narrow(0, first, count);
  const at::Tensor reference = reference_.narrow(0, first, count);
  const at::Tensor sums = rows_of(sums_, 0, count), maxima = rows_of(maxima_, 0, count);
  const at::Tensor wanted = wanted_.narrow(0, first / chunk_, 1);
  const at::Tensor scaled_input = rows_of(scaled_input_, 0, count);
  // The second time does nothing where the first was right, which nobody waits to hear.
  for (const bool again : {false, true}) {
    loss_.in.run(product, {{"input", x},
                           {"weight", loss_.weight},
                           {"reference", reference},
                           {"exponentials", e},
                           {"sums", sums},
                           {"maxima", maxima},
                           {"wanted", again ? wanted : at::Tensor()}});
    loss_.in.run(rows, {{"input", x},
                        {"target", loss_.target.narrow(0, first, count)},
                        {"score", score_.narrow(0, first, count)},
                        {"sums", sums},
                        {"maxima", maxima},
                        {"totals", loss_.totals},
                        {"reference", reference},
                        {"exponentials", e},
                        {"row_loss", row_loss},
                        {"row_z_loss", row_z_loss},
                        {"factor", rows_of(factor_, 0, count)},
                        {"scaled_input", scaled_input},
                        {"wanted", wanted},
                        {"classes", loss_.weight.size(0)},
                        {"again", again}});
  }
  return scaled_input;
}

// The products stay in float32 until they are scaled: rounded before, they would be rounded twice.
// They lie where the scaled input was, which takes as much as half of them.
void ScaledExp::gradient(const at::Tensor& e, const at::Tensor& dx) const {
  const int64_t hidden = dx.size(1);
  const at::Tensor wide = scratch_.narrow(0, 0, scratch_.numel() / 2 * 2).view(at::kFloat);
  const int64_t rows = wide.size(0) / hidden;
  for (int64_t first = 0; first < dx.size(0); first += rows) {
    const int64_t count = std::min(rows, dx.size(0) - first);
    at::Tensor product = wide.narrow(0, 0, count * hidden).view({count, hidden});
    add_product(product, e.narrow(0, first, count), loss_.weight, true);
    at::Tensor of_rows = dx.narrow(0, first, count);
    at::mul_out(of_rows, product, factor_.narrow(0, first, count).unsqueeze(1));
  }
}

}  // namespace liger::torch_bindings
