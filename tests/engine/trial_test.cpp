// A trial of the tuner runs a call of fewer rows on tensors that are as much shorter.
#include "engine/trial.h"

#include <gtest/gtest.h>

#include "engine/arguments.h"
#include "engine/registry.h"
#include "engine/report/describe.h"

namespace liger {
namespace {

constexpr int64_t many_rows = 100'003, few_rows = 7;  // equal to no other size

// The rows of the tensor that a call shrinks by; 0: there is none.
int64_t rows_of(const Call& call) {
  for (size_t i = 0; i < call.op().inputs.size(); ++i) {
    const Tensor& tensor = call.tensor(static_cast<int>(i));
    if (tensor.defined && call.op().inputs[i].layout == Layout::rows) return tensor.rows();
  }
  return 0;
}

TEST(Trials, no_kernel_of_a_shorter_call_counts_the_rows_of_the_longer) {
  const Place hopper = {Backend::cuda, 0, 132, 90};
  int counted = 0;
  for (const Op& op : registry()) {
    if (op.kernels.empty()) continue;
    const Call call =
        example_call(op, Dtype::f32, {{"rows", many_rows}, {"size", 16}, {"inner", 8}}, hopper);
    const int64_t rows = rows_of(call);
    if (rows < many_rows) continue;
    const Call shorter = call.with_rows(few_rows);
    for (const KernelOf& kernel : op.kernels) {
      if (kernel.when && !kernel.when(call)) continue;
      const std::vector<Knobs> candidates = candidates_of(kernel, call);
      if (candidates.size() == 1) continue;  // has no trial
      const Knobs& knobs = candidates.front();
      const auto of_call = launch_of(kernel, call, knobs).packed_arguments;
      const auto of_shorter = launch_of(kernel, shorter, knobs).packed_arguments;
      ASSERT_EQ(of_call.size(), of_shorter.size());
      for (size_t i = 0; i < of_call.size(); ++i) {
        if (of_call[i] != static_cast<uint64_t>(rows)) continue;
        EXPECT_NE(of_shorter[i], of_call[i]) << op.name << ", " << kernel.name << ", word " << i;
        ++counted;
      }
    }
  }
  EXPECT_GT(counted, 20);
}

}  // namespace
}  // namespace liger
