#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "engine/output_layout.h"
#include "engine/prepare.h"
#include "torch_bindings/execute.h"
#include "torch_bindings/kernels.h"
#include "torch_bindings/tensor.h"

namespace liger::torch_bindings {

namespace {

// The op's inputs leave the stack, its outputs take their place.
void replace_by(Stack* stack, size_t inputs, Tensors&& outputs) {
  stack->erase(stack->end() - static_cast<std::ptrdiff_t>(inputs), stack->end());
  for (at::Tensor& output : outputs) stack->emplace_back(std::move(output));
}

bool symbolic(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

// Of sizes that are symbols: what a tracer cannot be certain of counts as not so.
struct CompareSymbols {
  static bool above(const c10::SymInt& a, const c10::SymInt& b) {
    return TORCH_GUARD_OR_FALSE(a.sym_gt(b));
  }
  static bool equal(const c10::SymInt& a, int64_t b) { return TORCH_GUARD_OR_FALSE(a.sym_eq(b)); }
};

Extents<c10::SymInt> extents_of_input(const at::Tensor& tensor) {
  const auto sizes = tensor.sym_sizes();
  const auto strides = tensor.sym_strides();
  Extents<c10::SymInt> result;
  result.dims = static_cast<int>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), result.sizes);
  std::copy(strides.begin(), strides.end(), result.strides);
  return result;
}

at::Tensor meta_output(const Op& op, const Output& output, const Call& call,
                       c10::ArrayRef<c10::IValue> inputs, c10::Device device) {
  const auto options = at::TensorOptions().dtype(scalar_type(output.dtype(call))).device(device);
  const auto extents =
      extents_of<c10::SymInt, CompareSymbols>(call, output, [&](const std::string& name) {
        return extents_of_input(inputs[op.input_index(name)].toTensor());
      });
  const c10::SymIntArrayRef sizes(extents.sizes, extents.dims);
  if (extents.contiguous) return at::empty_symint(sizes, options);
  return at::empty_strided_symint(sizes, {extents.strides, sizes.size()}, options);
}

bool symbolic(const Op& op, c10::ArrayRef<c10::IValue> inputs) {
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    if (op.inputs[i].is_tensor() && inputs[i].isTensor() && symbolic(inputs[i].toTensor()))
      return true;
  }
  return false;
}

}  // namespace

void BackendKernel::operator()(const c10::OperatorHandle&, c10::DispatchKeySet, Stack* stack) {
  const size_t count = op.inputs.size();
  const auto inputs = c10::ArrayRef<c10::IValue>(*stack).slice(stack->size() - count, count);
  replace_by(stack, count, with_torch_errors([&] {
               return op.kernels.empty() ? composite_of(op)(op, inputs) : execute(op, inputs, op);
             }));
}

void MetaKernel::operator()(const c10::OperatorHandle&, c10::DispatchKeySet, Stack* stack) {
  const size_t count = op.inputs.size();
  const auto inputs = c10::ArrayRef<c10::IValue>(*stack).slice(stack->size() - count, count);
  replace_by(stack, count, with_torch_errors([&] {
               device_of(op, inputs);  // one meta tensor is enough to come here
               const bool concrete = !symbolic(op, inputs);
               const bool records = preparing() && concrete;
               // Without a device the number of multiprocessors only sizes a workspace: no unit
               // depends on it.
               const Place place = records ? place_on(prepare_target()) : Place{};
               const Call call = call_of(op, inputs, place);
               if (concrete) check_call(call);
               Tensors outputs;
               for (const Output& output : op.outputs) {
                 outputs.push_back(meta_output(op, output, call, inputs, c10::kMeta));
               }
               if (records) {
                 op.kernels.empty() ? void(composite_of(op)(op, inputs)) : prepare(call);
               }
               return outputs;
             }));
}

}  // namespace liger::torch_bindings
