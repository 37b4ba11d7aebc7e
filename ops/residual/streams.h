// What ops on residual streams, x of [tokens, HC, C], share in their declarations.
#pragma once

#include "ops/row_knobs.h"

namespace liger {

constexpr int64_t most_streams = 16;

int64_t tokens_of(const Call& call);
int64_t streams_of(const Call& call);
int64_t channels_of(const Call& call);

// Checks, each raises Error(invalid_argument).
void require_streams(const Call& call);  // x has that shape
void require_sizes(const Call& call, std::string_view tensor, std::vector<int64_t> sizes,
                   std::string_view meaning);
void require_arithmetic(const Call& call, std::string_view tensor);  // the dtype of factors of x

// Kernels of other ops: the mixture `x_in` of `x` by `h_pre`, and over channels the sums of
// products of `dx_in` with `x`, which go to `dh`.
KernelOf mixture_before_layer();
KernelOf sums_of_mixture_before_layer(std::string dx_in, std::string dh);

}  // namespace liger
