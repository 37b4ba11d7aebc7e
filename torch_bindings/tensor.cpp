#include "torch_bindings/tensor.h"

#include <ATen/Context.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <bit>

namespace liger::torch_bindings {

Dtype dtype_of(const at::Tensor& tensor, const Op& op, const Input& input) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Dtype::f32;
    case at::kDouble:
      return Dtype::f64;
    case at::kBFloat16:
      return Dtype::bf16;
    case at::kHalf:
      return Dtype::f16;
    case at::kLong:
      return Dtype::i64;
    case at::kInt:
      return Dtype::i32;
    case at::kChar:
      return Dtype::i8;
    case at::kByte:
      return Dtype::u8;
    case at::kBool:
      return Dtype::boolean;
    default:
      throw Error(ErrorKind::invalid_argument, "liger_jit::" + op.name + ": argument '" +
                                                   input.name + "' has dtype " +
                                                   c10::toString(tensor.scalar_type()) +
                                                   "; allowed: float32, bfloat16, float16");
  }
}

at::ScalarType scalar_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return at::kFloat;
    case Dtype::f64:
      return at::kDouble;
    case Dtype::bf16:
      return at::kBFloat16;
    case Dtype::f16:
      return at::kHalf;
    case Dtype::i64:
      return at::kLong;
    case Dtype::i32:
      return at::kInt;
    case Dtype::i8:
      return at::kChar;
    case Dtype::u8:
      return at::kByte;
    case Dtype::boolean:
      return at::kBool;
  }
  return at::kFloat;
}

Tensor describe(const at::Tensor& tensor, const Op& op, const Input& input) {
  Tensor result;
  result.defined = true;
  result.dtype = dtype_of(tensor, op, input);
  result.dims = static_cast<int>(tensor.dim());
  if (result.dims > max_dims) {
    throw Error(ErrorKind::invalid_argument,
                "liger_jit::" + op.name + ": argument '" + input.name + "' has " +
                    std::to_string(result.dims) + " dimensions; allowed: up to " +
                    std::to_string(max_dims) + ", flatten the leading ones");
  }
  if (tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) return result;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  for (int dim = 0; dim < result.dims; ++dim) {
    result.sizes[dim] = sizes[dim];
    result.strides[dim] = strides[dim];
  }
  if (!tensor.is_meta() && tensor.unsafeGetTensorImpl()->has_storage()) {
    const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
    result.align_bytes = 1 << std::min(std::countr_zero(address | 16), 4);
  }
  return result;
}

Scalar scalar_of(const c10::IValue& value, InputKind kind) {
  Scalar scalar{.integer = 0};
  switch (kind) {
    case InputKind::real:
      scalar.real = value.toDouble();
      break;
    case InputKind::integer:
      scalar.integer = value.toInt();
      break;
    case InputKind::flag:
      scalar.integer = value.toBool() ? 1 : 0;
      break;
    case InputKind::mask: {
      const auto bits = value.toListRef();
      for (size_t i = 0; i < bits.size(); ++i) {
        if (bits[i].toBool()) scalar.integer |= int64_t{1} << i;
      }
      break;
    }
    default:
      break;
  }
  return scalar;
}

bool absent(const c10::IValue& value, const Input& input) {
  if (value.isNone()) return true;
  const at::Tensor& tensor = value.toTensor();
  if (!tensor.defined()) return true;
  return input.kind == InputKind::optional_tensor && tensor.dim() == 1 && tensor.sym_numel() == 0;
}

Backend backend_of(c10::Device device) {
  if (device.is_cpu()) return Backend::cpu;
  return at::globalContext().hasROCM() ? Backend::hip : Backend::cuda;
}

void raise_torch_error(const Error& error) {
  switch (error.kind()) {
    case ErrorKind::invalid_argument:
      TORCH_CHECK_VALUE(false, error.what());
    case ErrorKind::unsupported:
      TORCH_CHECK_NOT_IMPLEMENTED(false, error.what());
    default:
      TORCH_CHECK(false, error.what());
  }
  __builtin_unreachable();
}

}  // namespace liger::torch_bindings
