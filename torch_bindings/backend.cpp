#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>

#include "ops/prepare.h"
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

at::Tensor meta_output(const Op& op, const Output& output, const Call& call,
                       c10::ArrayRef<c10::IValue> inputs, c10::Device device) {
  const Shape shape = output.shape(call);
  const auto options = at::TensorOptions().dtype(scalar_type(output.dtype(call))).device(device);
  if (shape.kind == Shape::Kind::scalar) return at::empty({}, options);
  if (shape.kind == Shape::Kind::empty) return at::empty({0}, options);
  const int index = op.input_index(shape.of);
  const at::Tensor& of = inputs[index].toTensor();
  // What a kernel cannot read in place is copied first, and the copy is contiguous.
  const bool copied = of.dim() > 0 && of.sym_strides().back().maybe_as_int() != 1;
  if (shape.kind == Shape::Kind::preserve && !copied) {
    if (symbolic(of)) return at::empty_like(of, options);
    const auto strides = preserved_strides(describe(of, op, op.inputs[index]));
    return at::empty_strided(of.sizes(), {strides.data(), of.sizes().size()}, options);
  }
  const auto sizes = of.sym_sizes();
  const auto leading = sizes.slice(0, sizes.empty() ? 0 : sizes.size() - 1);
  if (shape.kind == Shape::Kind::linear) {
    c10::SymDimVector wide(leading.begin(), leading.end());
    wide.push_back(inputs[op.input_index(shape.weight)].toTensor().sym_size(0));
    return at::empty_symint(wide, options);
  }
  return at::empty_symint(shape.kind == Shape::Kind::rows_of ? leading : sizes, options);
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
                 if (const CompositeParts parts = composite_parts_of(op)) {
                   parts(op, inputs);
                 } else {
                   prepare(call);
                 }
               }
               return outputs;
             }));
}

}  // namespace liger::torch_bindings
