#include "torch_bindings/composites/linear_exponentials.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>

#include "ops/linear_exponentials.h"
#include "ops/registry.h"

namespace liger::torch_bindings {
namespace {

// Of two bytes. As much is taken for the input's gradient in float32, so that its product has
// enough rows to keep a GPU busy.
constexpr int64_t most_fast_elements = int64_t{8} << 20;

bool aligned(const at::Tensor& tensor) {
  return tensor.is_meta() || reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

bool plain(const Inputs& in) {
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

bool LinearExponentials::serve(const LinearLoss& loss, const Place& place, int64_t chunk) {
  const at::Tensor& input = loss.input;
  return loss.totals.defined() && input.scalar_type() == at::kBFloat16 && plain(loss.in) &&
         aligned(input) && aligned(loss.weight) &&
         linear_exponentials_pay(place, std::min(chunk, input.size(0)), input.size(1),
                                 loss.weight.size(0));
}

LinearExponentials::LinearExponentials(const LinearLoss& loss, int64_t chunk, bool with_gradient,
                                       Run run)
    : loss_(loss), run_(std::move(run)), chunk_(chunk) {
  const int64_t tokens = loss_.input.size(0);
  const auto floats = loss_.input.options().dtype(at::kFloat);
  score_ = at::empty({tokens}, floats);
  reference_ = at::empty({tokens}, floats);
  const int64_t sums = linear_exponentials_sums(loss_.weight.size(0));
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
  run_(reference,
       {loss_.input, loss_.weight, loss_.target, score_, reference_, loss_.in["ignore_index"]});
}

at::Tensor LinearExponentials::buffer() const {
  if (!scaled_input_.defined()) return {};
  const int64_t classes = loss_.weight.size(0);
  return at::empty({chunk_, padded_columns(classes)}, loss_.input.options()).narrow(1, 0, classes);
}

at::Tensor LinearExponentials::chunk(int64_t first, int64_t count, const at::Tensor& e,
                                     const at::Tensor& row_loss,
                                     const at::Tensor& row_z_loss) const {
  static const Op& product = op_named("linear_exponentials_");
  static const Op& rows = op_named("linear_exponentials_rows_");
  const auto head = [count](const at::Tensor& whole) {
    return whole.defined() ? whole.narrow(0, 0, count) : whole;
  };
  const at::Tensor x = loss_.input.narrow(0, first, count);
  const at::Tensor reference = reference_.narrow(0, first, count);
  const at::Tensor sums = head(sums_), maxima = head(maxima_);
  const at::Tensor wanted = wanted_.narrow(0, first / chunk_, 1);
  const at::Tensor scaled_input = head(scaled_input_);
  // The second time does nothing where the first was right, which nobody waits to hear.
  for (const bool again : {false, true}) {
    run_(product, {x, loss_.weight, reference, or_none(e), sums, maxima,
                   again ? c10::IValue(wanted) : c10::IValue()});
    run_(rows,
         {x, loss_.target.narrow(0, first, count), score_.narrow(0, first, count), sums, maxima,
          loss_.totals, reference, or_none(e), row_loss, row_z_loss, or_none(head(factor_)),
          or_none(scaled_input), wanted, loss_.weight.size(0), loss_.in["ignore_index"], again});
  }
  return scaled_input;
}

// The products stay in float32 until they are scaled: rounded before, they would be rounded twice.
// They lie where the scaled input was, which takes as much as half of them.
void LinearExponentials::gradient(const at::Tensor& e, const at::Tensor& dx) const {
  const int64_t hidden = dx.size(1);
  const at::Tensor wide = scratch_.narrow(0, 0, scratch_.numel() / 2 * 2).view(at::kFloat);
  const int64_t rows = wide.size(0) / hidden;
  for (int64_t first = 0; first < dx.size(0); first += rows) {
    const int64_t count = std::min(rows, dx.size(0) - first);
    at::Tensor product = wide.narrow(0, 0, count * hidden).view({count, hidden});
    at::mm_out(product, e.narrow(0, first, count), loss_.weight, at::kFloat);
    at::Tensor of_rows = dx.narrow(0, first, count);
    at::mul_out(of_rows, product, factor_.narrow(0, first, count).unsqueeze(1));
  }
}

}  // namespace liger::torch_bindings
