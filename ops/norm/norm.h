// What the norms share in their declarations.
#pragma once

#include "ops/row_knobs.h"

namespace liger {

// The inputs' `casting_mode`: where the normalised row is rounded.
enum class CastingMode : int64_t {
  llama = 0,  // to x's dtype, before the weight
  gemma = 1,  // once, after the weight
  none = 2,   // as gemma
};

Input casting_mode();
bool round_early(const Call& call);
// A flag of the forward: its statistics are outputs. Only a backward reads them.
Input keeps_statistics();
Shape statistics_shape(const Call& call);
void require_statistics(const Call& call, std::string_view name);  // one for each row of x

Dtype norm_output_dtype(const Call& call);  // of x, or the wider of x and weight when `promote`
Dtype weight_dtype(const Call& call,
                   std::string_view like);  // that of `like` when there is no weight
void check_norm(const Call& call);

// The forward of an RMS norm, and of one to which the input `added` is added; empty: none.
KernelOf rms_norm_kernel(std::string name, std::string source, const std::string& added);
// The same of a layer norm.
KernelOf layer_norm_kernel(std::string name, std::string source, const std::string& added);

// The backward of both norms: dy, x (or the sum), weight, rstd and, where there is one, dsum.
Op rms_norm_backward_op(std::string name, bool with_dsum);

}  // namespace liger
