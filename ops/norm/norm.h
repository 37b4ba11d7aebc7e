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

// What a norm's forward has to do with a sum.
enum class Adds : uint8_t {
  nothing,
  after,   // y = residual + the norm
  before,  // sum = x + residual, an output, is what the norm is of
};

// The forward of an RMS norm, and of a layer norm.
KernelOf rms_norm_kernel(std::string name, std::string source, Adds adds);
KernelOf layer_norm_kernel(std::string name, std::string source, Adds adds);

// Their backward: dy, x (or the sum), weight, what the forward keeps and, `with_dsum`, what arrives
// at the sum, if anything does.
Op rms_norm_backward_op(std::string name, bool with_dsum);
Op layer_norm_backward_op(std::string name, bool with_dsum);

}  // namespace liger
