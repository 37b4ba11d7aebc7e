// The registry and the machine as JSON, for people and tests.
#pragma once

#include <string>

#include "engine/op.h"

namespace liger {

std::string describe_ops();          // list of ops with inputs, outputs, kernels and cases
std::string describe_environment();  // variables, cache, compilers, devices
std::string describe_stats();        // counters and recent warnings

// What the server of LIGER_JIT_REMOTE answers: {address, reads, problem, read_ms}; {} without one.
std::string describe_remote();

// The arguments of an example call: one object for each input, defaults left out. Sizes that are
// not named are as usual; here and below one that the op does not have raises
// Error(invalid_argument).
std::string describe_example(const Op& op, Dtype dtype, const Extent& extent);

// The units of an example call on a target; `compile` adds what the compiler says of them.
std::string describe_units(const Op& op, Dtype dtype, const Extent& extent, const Target& target,
                           bool compile);

// float32, bfloat16, float16, float64 and their short forms. Raises Error(invalid_argument).
Dtype parse_dtype(std::string_view text);

// The call of an example, with contiguous tensors.
Call example_call(const Op& op, Dtype dtype, const Extent& extent, Place place);

}  // namespace liger
