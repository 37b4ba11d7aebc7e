// The vectors that kernels for a GPU read and write lie at multiples of what their specs claim,
// however inputs lie in memory. No GPU is needed: the claim is in the spec, and the strides are in
// the plan.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <regex>

#include "base/error.h"
#include "engine/output_layout.h"
#include "engine/plan.h"
#include "engine/registry.h"
#include "engine/report/describe.h"

namespace liger {
namespace {

const Place hopper = {Backend::cuda, 0, 132, 90};

void make_contiguous(Tensor& tensor) {
  int64_t stride = 1;
  for (int dim = tensor.dims - 1; dim >= 0; --dim) {
    tensor.strides[dim] = stride;
    stride *= std::max<int64_t>(tensor.sizes[dim], 1);
  }
}

// As if each row stood in one that is longer.
void pad(Tensor& tensor, int64_t by) {
  int64_t stride = tensor.last_size() + by;
  for (int dim = tensor.dims - 2; dim >= 0; --dim) {
    tensor.strides[dim] = stride;
    stride *= std::max<int64_t>(tensor.sizes[dim], 1);
  }
}

struct Arrangement {
  std::string name;
  std::function<void(Tensor&)> apply;
};

std::vector<Arrangement> layouts() {
  std::vector<Arrangement> list = {{"contiguous", make_contiguous}};
  for (const int64_t by : {1, 2, 3, 4, 5, 6, 7, 8}) {
    list.push_back({"padded by " + std::to_string(by), [by](Tensor& tensor) { pad(tensor, by); }});
  }
  for (int from_last = 1; from_last <= max_dims; ++from_last) {
    list.push_back({"expanded dim -" + std::to_string(from_last), [from_last](Tensor& tensor) {
                      if (from_last <= tensor.dims) tensor.strides[tensor.dims - from_last] = 0;
                    }});
  }
  list.push_back({"all expanded", [](Tensor& tensor) {
                    std::fill(tensor.strides, tensor.strides + tensor.dims, 0);
                  }});
  list.push_back({"overlapping", [](Tensor& tensor) {
                    if (tensor.dims > 1) tensor.strides[tensor.dims - 2] = 3;
                  }});
  list.push_back({"offset by one element", [](Tensor& tensor) {
                    tensor.align_bytes = static_cast<int>(size_bytes(tensor.dtype));
                  }});
  list.push_back({"leading dims reversed", [](Tensor& tensor) {
                    int64_t stride = tensor.last_size();
                    for (int dim = 0; dim + 1 < tensor.dims; ++dim) {
                      tensor.strides[dim] = stride;
                      stride *= std::max<int64_t>(tensor.sizes[dim], 1);
                    }
                  }});
  return list;
}

// The input of that index alone, or all of them (-1), laid out anew.
void lay_out(Call& call, const Arrangement& layout, int which) {
  for (size_t i = 0; i < call.op().inputs.size(); ++i) {
    Tensor& tensor = call.tensor(static_cast<int>(i));
    if (tensor.defined && (which < 0 || which == static_cast<int>(i))) layout.apply(tensor);
  }
}

// What every vector of a tensor's rows begins at a multiple of; found by looking at the rows.
int64_t common_alignment(const Tensor& tensor) {
  int64_t bytes = tensor.align_bytes;
  for (int dim = 0; dim + 1 < tensor.dims; ++dim) {
    if (tensor.sizes[dim] > 1)
      bytes = std::gcd(bytes, tensor.strides[dim] * size_bytes(tensor.dtype));
  }
  return bytes;
}

Tensor allocated(const OutputPlan& plan) {
  Tensor tensor;
  tensor.defined = true;
  tensor.dtype = plan.dtype;
  tensor.dims = static_cast<int>(plan.sizes.size());
  std::copy(plan.sizes.begin(), plan.sizes.end(), tensor.sizes);
  make_contiguous(tensor);
  std::copy(plan.strides.begin(), plan.strides.end(), tensor.strides);
  return tensor;
}

// The tensors of which kernels read or write vectors of a row: not labels, not one value a row.
std::vector<std::pair<std::string, Tensor>> tensors_with_rows(const Call& call) {
  const Op& op = call.op();
  const auto has_rows = [&](int input) {
    return input >= 0 && op.inputs[input].layout != Layout::dense;
  };
  std::vector<std::pair<std::string, Tensor>> list;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (tensor.defined && is_float(tensor.dtype) && has_rows(static_cast<int>(i)))
      list.emplace_back(op.inputs[i].name, tensor);
  }
  const std::vector<OutputPlan> outputs = plan_outputs(call);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Shape shape = op.outputs[i].shape(call);
    if (shape.whole() && has_rows(op.input_index(shape.of)))
      list.emplace_back(op.outputs[i].name, allocated(outputs[i]));
  }
  return list;
}

// The alignment that the op's kernels assume; one that names none takes 16 for granted.
int64_t claim_of(const Call& call) {
  static const std::regex field("\\.align_bytes = (\\d+)");
  int64_t claim = 16;
  for (const PlannedUnit& planned : units_of(call, false)) {
    std::smatch match;
    if (std::regex_search(planned.unit.spec, match, field))
      claim = std::min<int64_t>(claim, std::stoi(match[1]));
  }
  return claim;
}

// Rows that may begin anywhere are read in words that are aligned down, so input and output must
// be equally far from alignment.
void expect_rows_shift_alike(const std::vector<std::pair<std::string, Tensor>>& tensors,
                             const std::string& where) {
  const Tensor& first = tensors.front().second;
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(tensor.align_bytes, first.align_bytes) << where << ", " << name;
    if (first.rows() < 2) continue;
    EXPECT_EQ(tensor.row_stride() * size_bytes(tensor.dtype) % 16,
              first.row_stride() * size_bytes(first.dtype) % 16)
        << where << ", " << name;
  }
}

// Whether the call was one that a kernel takes as it is.
bool check_claim(const Call& call, const std::string& where) {
  try {
    check_call(call);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument) << where;
    EXPECT_NE(std::string(error.what()).find("argument '"), std::string::npos) << error.what();
    return false;
  }
  if (copies_needed(call) != 0) return false;
  const int64_t claim = claim_of(call);
  const auto tensors = tensors_with_rows(call);
  if (claim == 0 && !tensors.empty()) {
    expect_rows_shift_alike(tensors, where);
    return true;
  }
  for (const auto& [name, tensor] : tensors) {
    const int64_t needed = std::max<int64_t>(claim, size_bytes(tensor.dtype));
    EXPECT_EQ(common_alignment(tensor) % needed, 0)
        << where << ": " << name << " " << shape_text(tensor) << " is read or written in words of "
        << needed << " bytes";
  }
  return true;
}

void ask_for_everything(Call& call) {
  const Op& op = call.op();
  if (const int asked = op.input_index(op.gradient.needs_grad_flag); asked >= 0)
    call.scalar(asked).integer = -1;
}

std::vector<Op*> ops_with_kernels() {
  std::vector<Op*> list;
  for (Op& op : registry()) {
    if (!op.kernels.empty()) list.push_back(&op);
  }
  return list;
}

class EveryOp : public testing::TestWithParam<Op*> {};
INSTANTIATE_TEST_SUITE_P(Layouts, EveryOp, testing::ValuesIn(ops_with_kernels()),
                         [](const auto& info) { return info.param->name; });

TEST_P(EveryOp, vectors_begin_where_the_spec_says_however_inputs_lie_in_memory) {
  const Op& op = *GetParam();
  int taken = 0;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (const int64_t size : {16, 18, 1001, 1002, 1004, 4096, 50257}) {
      for (const int64_t rows : {1, 5, 64}) {
        Call example =
            example_call(op, dtype, {{"rows", rows}, {"size", size}, {"inner", 4}}, hopper);
        ask_for_everything(example);
        for (const Arrangement& layout : layouts()) {
          for (int which = -1; which < static_cast<int>(op.inputs.size()); ++which) {
            if (which >= 0 && !example.tensor(which).defined) continue;
            Call call = example;
            lay_out(call, layout, which);
            const std::string whose = which < 0 ? "all inputs" : op.inputs[which].name;
            taken += check_claim(call, op.name + " " + std::string(name_of(dtype)) + ", " + whose +
                                           " " + layout.name);
          }
        }
      }
    }
  }
  EXPECT_GT(taken, 50);
}

TEST(OutputLayout, only_what_has_free_strides_is_preserved) {
  for (const Op* op : ops_with_kernels()) {
    const Call call =
        example_call(*op, Dtype::f32, {{"rows", 5}, {"size", 16}, {"inner", 4}}, hopper);
    for (const Output& output : op->outputs) {
      const Shape shape = output.shape(call);
      if (!shape.in_order) continue;
      EXPECT_EQ(op->inputs[op->input_index(shape.of)].layout, Layout::strided) << op->name;
    }
  }
}

TEST(OutputLayout, an_expanded_output_is_one_element_that_asks_for_no_alignment) {
  const Op& op = op_named("mhc_forward");
  const Call call =
      example_call(op, Dtype::bf16, {{"rows", 5}, {"size", 16}, {"inner", 4}}, hopper);
  const Output& streams = op.outputs[op.output_index("streams")];
  const Tensor made = output_tensor(call, streams);
  EXPECT_EQ(made.count(), call["x"].count());
  for (int dim = 0; dim < made.dims; ++dim) EXPECT_EQ(made.strides[dim], 0);
  EXPECT_FALSE(has_rows(op, streams.shape(call)));
}

TEST(Inputs, what_no_kernel_reads_is_not_copied_and_asks_for_no_alignment) {
  const Op& op = op_named("mhc_post_res");
  Call call = example_call(op, Dtype::bf16, {{"rows", 5}, {"size", 16}, {"inner", 4}}, hopper);
  const int align_bytes = call.align_bytes();
  Tensor& streams = call.tensor(op.input_index("streams"));
  streams = call["x"];
  streams.align_bytes = 2;
  std::fill(streams.strides, streams.strides + streams.dims, 0);
  EXPECT_NO_THROW(check_call(call));
  EXPECT_EQ(copies_needed(call), 0U);
  EXPECT_EQ(call.align_bytes(), align_bytes);
}

TEST(Overlap, is_found_in_whatever_dims_share_memory) {
  const auto overlaps = [](std::vector<int64_t> sizes, std::vector<int64_t> strides) {
    Tensor tensor;
    tensor.dims = static_cast<int>(sizes.size());
    std::copy(sizes.begin(), sizes.end(), tensor.sizes);
    std::copy(strides.begin(), strides.end(), tensor.strides);
    return tensor.overlaps();
  };
  EXPECT_FALSE(overlaps({}, {}));
  EXPECT_FALSE(overlaps({2, 3}, {3, 1}));
  EXPECT_FALSE(overlaps({2, 3}, {1, 2}));
  EXPECT_FALSE(overlaps({2, 3}, {8, 1}));
  EXPECT_FALSE(overlaps({1, 3}, {0, 1}));
  EXPECT_FALSE(overlaps({0, 3}, {0, 0}));
  EXPECT_TRUE(overlaps({2, 3}, {0, 1}));
  EXPECT_TRUE(overlaps({2, 3}, {2, 1}));
  EXPECT_TRUE(overlaps({2, 3}, {1, 1}));
  EXPECT_TRUE(overlaps({2, 1, 3}, {3, 5, 0}));
}

}  // namespace
}  // namespace liger
