// One call of an op, without its data pointers: everything that decides which kernels run and how.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tensor.h"
#include "runtime/compile/target.h"

namespace liger {

struct Op;

// Where the call runs, as far as plans are concerned.
struct Place {
  Backend backend = Backend::cpu;
  int ordinal = 0;
  int multiprocessors = 1;
  int capability = 0;  // 90 for sm_90a; 0 for what is not CUDA
};
Place place_on(const Target& target, int ordinal = 0, int multiprocessors = 1);

union Scalar {
  int64_t integer;
  double real;
};

class Call {
 public:
  Call(const Op& op, Place place);

  const Op& op() const { return *op_; }
  const Place& place() const { return place_; }
  bool on_host() const { return place_.backend == Backend::cpu; }

  // By the names of the declaration; an unknown name is a defect of the declaration and aborts.
  const Tensor& operator[](std::string_view name) const { return tensors_[index(name)]; }
  bool has(std::string_view name) const { return tensors_[index(name)].defined; }
  int64_t integer(std::string_view name) const { return scalars_[index(name)].integer; }
  double real(std::string_view name) const { return scalars_[index(name)].real; }
  bool flag(std::string_view name) const { return scalars_[index(name)].integer != 0; }
  bool wants_grad(int bit, std::string_view name = "output_mask") const {
    return scalars_[index(name)].integer >> bit & 1;
  }

  // The alignment that pointers and rows of all tensors share, of inputs and outputs, in bytes: 16,
  // 8, 4 or 2. The workspace's rows are whole packs (`padded_columns`).
  int align_bytes() const;

  Tensor& tensor(int input) { return tensors_[input]; }
  const Tensor& tensor(int input) const { return tensors_[input]; }
  Scalar& scalar(int input) { return scalars_[input]; }
  const Scalar& scalar(int input) const { return scalars_[input]; }

  // The same call with at most `rows` rows, for measuring. Only tensors that are read by rows
  // shrink.
  Call with_rows(int64_t rows) const;

  // Raises Error(invalid_argument): "OP: ARGUMENT WHAT; allowed: ALLOWED".
  [[noreturn]] void refuse(std::string_view argument, const std::string& what,
                           const std::string& allowed) const;

 private:
  int index(std::string_view name) const;

  const Op* op_;
  Place place_;
  std::vector<Tensor> tensors_;  // by input; undefined for scalars
  std::vector<Scalar> scalars_;  // by input
};

std::string shape_text(const Tensor& tensor);  // [2, 3] bfloat16

}  // namespace liger
