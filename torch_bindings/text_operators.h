// Operators that take and give text (JSON), for the command line and the Python side: what is known
// of the ops, the environment, the cache and the counters, and ahead-of-time compiling.
#pragma once

#include <torch/library.h>

namespace liger::torch_bindings {

void register_text_operators(torch::Library& library);

}  // namespace liger::torch_bindings
